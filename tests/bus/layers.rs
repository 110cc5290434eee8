//! Tower layers around procedures and listeners.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{OnError, RetryPolicy, RpcMessage, contract::CallError};
use lightbus_tests::{Place, eventually, on_every_transport, soon};
use tower::{
    limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, timeout::TimeoutLayer,
    util::MapRequestLayer,
};

#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    async fn wait(&self, millis: u64) -> Result<u64, Busy>;
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct UserRegistered {
    pub username: String,
}

#[derive(Debug, PartialEq, lightbus::ApiError)]
pub enum Busy {
    Until { hour: u32 },
}

#[derive(Clone, Default)]
struct Service {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Auth for Service {
    async fn wait(&self, millis: u64) -> Result<u64, Busy> {
        if millis == 0 {
            return Err(Busy::Until { hour: 12 });
        }
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(millis)
    }
}

on_every_transport!(
    a_layer_ends_what_takes_too_long_and_declared_errors_pass,
    a_layer_limits_what_runs_at_once,
    a_layer_sheds_what_is_too_much,
    a_layer_changes_calls,
    a_layer_around_a_listener_counts_as_its_handler,
);

async fn a_layer_ends_what_takes_too_long_and_declared_errors_pass(place: Place) {
    let bus = place.bus("auth").await;
    let limit = TimeoutLayer::new(Duration::from_millis(100));
    bus.serve(AuthApi(Service::default())).layer(limit).await.unwrap();
    let auth = AuthClient::new(&bus);
    assert_eq!(auth.wait(1).await.unwrap(), 1);
    let error = soon("the call", async { auth.wait(60_000).await }).await.unwrap_err();
    assert!(error.to_string().contains("timed out"), "{error}");
    let error = auth.wait(0).await.unwrap_err();
    assert!(matches!(error, CallError::Api(Busy::Until { hour: 12 })), "{error}");
    bus.close().await.unwrap();
}

async fn a_layer_limits_what_runs_at_once(place: Place) {
    let bus = place.bus("auth").await;
    let service = Service::default();
    let most = Arc::clone(&service.most);
    bus.serve(AuthApi(service)).layer(ConcurrencyLimitLayer::new(2)).await.unwrap();
    let auth = AuthClient::new(&bus);
    let calls = (0..6).map(|_| async { auth.wait(20).await });
    for answer in soon("the calls", futures_util::future::join_all(calls)).await {
        assert_eq!(answer.unwrap(), 20);
    }
    assert_eq!(most.load(Ordering::SeqCst), 2);
    bus.close().await.unwrap();
}

async fn a_layer_sheds_what_is_too_much(place: Place) {
    let bus = place.bus("auth").await;
    let layered = bus
        .serve(AuthApi(Service::default()))
        .layer(ConcurrencyLimitLayer::new(1))
        .layer(LoadShedLayer::new());
    layered.await.unwrap();
    let auth = AuthClient::new(&bus);
    let calls = (0..4).map(|_| async { auth.wait(300).await });
    let answers = soon("the calls", futures_util::future::join_all(calls)).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
    let error = answers.into_iter().find_map(Result::err).unwrap();
    assert!(error.to_string().contains("overloaded"), "{error}");
    bus.close().await.unwrap();
}

async fn a_layer_changes_calls(place: Place) {
    let bus = place.bus("auth").await;
    let doubled = MapRequestLayer::new(|mut call: RpcMessage| {
        let fields = call.fields.iter().map(|(name, value)| {
            let millis: u64 = serde_json::from_slice(value).unwrap();
            (name.clone(), (2 * millis).to_string().into())
        });
        call.fields = fields.collect();
        call
    });
    bus.serve(AuthApi(Service::default())).layer(doubled).await.unwrap();
    assert_eq!(AuthClient::new(&bus).wait(2).await.unwrap(), 4);
    bus.close().await.unwrap();
}

async fn a_layer_around_a_listener_counts_as_its_handler(place: Place) {
    let bus = place.bus("auth").await;
    bus.serve(AuthApi(Service::default())).await.unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&tries);
    let wait = Duration::from_millis(1);
    let policy = RetryPolicy::attempts(3).backoff(wait, wait);
    bus.listen("slow", move |user: UserRegistered| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            if user.username == "slow" {
                std::future::pending::<()>().await;
            }
            Ok(())
        }
    })
    .layer(TimeoutLayer::new(Duration::from_millis(50)))
    .on_error(OnError::Retry(policy))
    .await
    .unwrap();
    for username in ["slow", "quick"] {
        bus.fire(UserRegistered { username: username.into() }).await.unwrap();
    }
    eventually("both are tried", async || tries.load(Ordering::SeqCst) == 4).await;
    let letters = async || bus.admin().dead_letters("auth", "slow", 9).await.unwrap();
    eventually("one is set aside", async || letters().await.len() == 1).await;
    let letter = letters().await.remove(0);
    assert!(letter.reason.contains("timed out"), "{}", letter.reason);
    assert_eq!(letter.attempts, 3);
    bus.close().await.unwrap();
}
