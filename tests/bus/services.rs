//! Services as users write them, on every transport by the same source.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use lightbus::{ErrorKind, Retry, RetryPolicy, prelude::*};
use lightbus_tests::{Place, eventually, on_every_transport, soon};
use tokio::sync::mpsc;

#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    async fn check_password(&self, username: String, password: String) -> bool;
    async fn boom(&self, how: String) -> Result<(), String>;
    async fn slow(&self) -> bool;
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct UserRegistered {
    pub username: String,
    pub email: String,
}

#[derive(Default)]
struct Service {
    calls: Arc<AtomicUsize>,
}

impl Auth for Service {
    async fn check_password(&self, username: String, password: String) -> bool {
        self.calls.fetch_add(1, Ordering::SeqCst);
        username == "admin" && password == "secret"
    }

    async fn boom(&self, how: String) -> Result<(), String> {
        match how.as_str() {
            "panic" => panic!("as asked"),
            how => Err(format!("failed by {how}")),
        }
    }

    async fn slow(&self) -> bool {
        tokio::time::sleep(Duration::from_secs(60)).await;
        true
    }
}

fn sally() -> UserRegistered {
    UserRegistered { username: "sally".into(), email: "sally@example.com".into() }
}

on_every_transport!(
    a_call_reaches_the_service_and_comes_back,
    a_failing_or_panicking_procedure_is_an_error_and_the_service_goes_on,
    wrong_arguments_are_refused_before_they_are_sent,
    wrong_arguments_are_refused_by_the_worker_too,
    an_unknown_procedure_names_those_that_exist,
    nobody_serving_is_said,
    a_service_that_starts_later_is_waited_for,
    a_call_that_waits_for_its_service_ends_with_the_bus,
    a_slow_procedure_is_a_timeout,
    two_workers_share_the_calls,
    an_event_reaches_each_listener_once,
    an_event_fired_while_its_listener_is_away_is_waiting,
    a_failing_handler_is_tried_again_and_then_the_event_is_set_aside,
    a_panicking_handler_does_not_stop_the_listener,
    an_unreadable_event_is_set_aside_and_the_listener_goes_on,
    only_an_authority_fires,
    a_listener_name_is_taken_once,
    schemas_are_shared,
    closing_lets_handlers_finish_and_later_calls_say_closed,
    many_calls_at_once_each_get_their_own_answer,
);

async fn a_call_reaches_the_service_and_comes_back(place: Place) {
    let (server, caller) = (place.bus("auth").await, place.bus("web").await);
    server.serve(AuthApi(Service::default())).await.unwrap();
    let auth = AuthClient::new(&caller);
    assert!(soon("calling", auth.check_password("admin", "secret").into_future()).await.unwrap());
    assert!(!auth.check_password("admin", "guess").await.unwrap());
    let valid: bool = caller
        .call("auth.check_password", args! { username: "admin", password: "secret" })
        .await
        .unwrap();
    assert!(valid);
}

async fn a_failing_or_panicking_procedure_is_an_error_and_the_service_goes_on(place: Place) {
    let (server, caller) = (place.bus("auth").await, place.bus("web").await);
    server.serve(AuthApi(Service::default())).await.unwrap();
    let auth = AuthClient::new(&caller);
    let failed = auth.boom("hand").await.unwrap_err();
    assert!(failed.to_string().contains("failed by hand"), "{failed}");
    let failed = auth.boom("panic").await.unwrap_err();
    assert!(failed.to_string().contains("panicked: as asked"), "{failed}");
    let error = caller.call::<()>("auth.boom", args! { how: "hand" }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote);
    assert!(auth.check_password("admin", "secret").await.unwrap());
}

async fn wrong_arguments_are_refused_before_they_are_sent(place: Place) {
    let (server, caller) = (place.bus("auth").await, place.bus("web").await);
    let calls = Arc::new(AtomicUsize::new(0));
    server.serve(AuthApi(Service { calls: Arc::clone(&calls) })).await.unwrap();
    for (args, why) in [
        (args! { username: "admin", password: 3 }, "`password` does not match the schema"),
        (args! { username: "admin" }, "`password` is missing"),
        (args! { username: "admin", password: "x", extra: 1 }, "no argument `extra`"),
    ] {
        let error = caller.call::<bool>("auth.check_password", args).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert!(
            error.to_string().contains(why) && error.to_string().contains("auth.check_password"),
            "{error}"
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0);
}

async fn wrong_arguments_are_refused_by_the_worker_too(place: Place) {
    let server = place.bus("auth").await;
    let caller = place.bus_with("web", "validate: false").await;
    server.serve(AuthApi(Service::default())).await.unwrap();
    for (args, why) in [
        (args! { username: "admin", password: 3 }, "`password`"),
        (args! { username: "admin" }, "`password` is missing"),
        (args! { username: "admin", password: "x", extra: 1 }, "`extra`"),
    ] {
        let error = soon("calling", caller.call::<bool>("auth.check_password", args).into_future())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let error = caller.call::<bool>("auth.no_such", args! {}).await.unwrap_err();
    assert!(
        error.to_string().contains("no_such") && error.to_string().contains("check_password"),
        "{error}"
    );
    assert!(AuthClient::new(&caller).check_password("admin", "secret").await.unwrap());
}

async fn an_unknown_procedure_names_those_that_exist(place: Place) {
    let (server, caller) = (place.bus("auth").await, place.bus("web").await);
    server.serve(AuthApi(Service::default())).await.unwrap();
    let error = caller.call::<bool>("auth.check_pasword", args! {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    assert!(error.to_string().contains("Did you mean `check_password`?"), "{error}");
}

async fn nobody_serving_is_said(place: Place) {
    let caller = place.bus("web").await;
    let call = AuthClient::new(&caller).check_password("a", "b").timeout(Duration::from_secs(1));
    let error = call.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("no process serves `auth`"), "{error}");
    assert_eq!(error.retryable(), Retry::Safe, "nothing was sent");
}

async fn a_service_that_starts_later_is_waited_for(place: Place) {
    let (server, caller) = (place.bus("auth").await, place.bus("web").await);
    let client = AuthClient::new(&caller);
    let calls = join_all((0..20).map(|_| {
        client.check_password("admin", "secret").timeout(Duration::from_secs(60)).into_future()
    }));
    let mut calls = pin!(calls);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut calls).await;
    assert!(early.is_err(), "no process serves it: {early:?}");
    server.serve(AuthApi(Service::default())).await.unwrap();
    for answer in soon("the answers", calls).await {
        assert!(answer.unwrap());
    }
}

async fn a_call_that_waits_for_its_service_ends_with_the_bus(place: Place) {
    let caller = place.bus("web").await;
    let client = AuthClient::new(&caller);
    let call = client.check_password("a", "b").timeout(Duration::from_secs(600)).into_future();
    let mut call = tokio::spawn(call);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut call).await;
    assert!(early.is_err(), "no process serves it: {early:?}");
    soon("closing", caller.close()).await.unwrap();
    let error = soon("the call", call).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
}

async fn a_slow_procedure_is_a_timeout(place: Place) {
    let (server, caller) = (place.bus("auth").await, place.bus("web").await);
    server.serve(AuthApi(Service::default())).await.unwrap();
    let call = AuthClient::new(&caller).slow().timeout(Duration::from_secs(1));
    let error = soon("giving up", call.into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("calling auth.slow"), "{error}");
}

async fn two_workers_share_the_calls(place: Place) {
    let calls = [Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0))];
    let mut buses = Vec::new();
    for count in &calls {
        let bus = place.bus("auth").await;
        bus.serve(AuthApi(Service { calls: Arc::clone(count) })).await.unwrap();
        buses.push(bus);
    }
    let caller = place.bus("web").await;
    let auth = AuthClient::new(&caller);
    for _ in 0..200 {
        assert!(auth.check_password("admin", "secret").await.unwrap());
    }
    let sum: usize = calls.iter().map(|count| count.load(Ordering::SeqCst)).sum();
    assert_eq!(sum, 200, "each call runs once");
}

async fn an_event_reaches_each_listener_once(place: Place) {
    let (server, mail, stats) =
        (place.bus("auth").await, place.bus("mail").await, place.bus("stats").await);
    let (sender, mut heard) = mpsc::channel(100);
    for bus in [&mail, &stats] {
        let (sender, service) = (sender.clone(), bus.service_name().to_owned());
        bus.listen("watch", move |user: Received<UserRegistered>| {
            let (sender, service) = (sender.clone(), service.clone());
            async move {
                sender
                    .send((service, user.id().to_owned(), user.into_inner()))
                    .await
                    .map_err(|_| HandlerError::new("gone"))
            }
        })
        .await
        .unwrap();
    }
    server.register(AuthClient::contract()).await.unwrap();
    let fired = server.fire(sally()).await.unwrap();
    let mut got = Vec::new();
    for _ in 0..2 {
        got.push(soon("an event", heard.recv()).await.unwrap());
    }
    got.sort_by(|a, b| a.0.cmp(&b.0));
    let id = fired.id.to_string();
    assert_eq!(got, [("mail".to_owned(), id.clone(), sally()), ("stats".to_owned(), id, sally())]);
    mail.wait_until_idle().await.unwrap();
    stats.wait_until_idle().await.unwrap();
    assert!(heard.try_recv().is_err(), "once is enough");
}

async fn an_event_fired_while_its_listener_is_away_is_waiting(place: Place) {
    let server = place.bus("auth").await;
    server.register(AuthClient::contract()).await.unwrap();
    let mail = place.bus("mail").await;
    mail.listen("watch", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    mail.close().await.unwrap();
    server.fire(sally()).await.unwrap();
    let mail = place.bus("mail").await;
    let (sender, mut heard) = mpsc::channel(1);
    mail.listen("watch", move |user: UserRegistered| {
        let sender = sender.clone();
        async move { sender.send(user).await.map_err(|_| HandlerError::new("gone")) }
    })
    .await
    .unwrap();
    assert_eq!(soon("the event", heard.recv()).await.unwrap(), sally());
}

async fn a_failing_handler_is_tried_again_and_then_the_event_is_set_aside(place: Place) {
    let bus = place.bus("auth").await;
    bus.register(AuthClient::contract()).await.unwrap();
    let (tries, handled) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let policy =
        RetryPolicy::attempts(3).backoff(Duration::from_millis(1), Duration::from_secs(10));
    let (count, good) = (Arc::clone(&tries), Arc::clone(&handled));
    bus.listen("watch", move |user: UserRegistered| {
        let (count, good) = (Arc::clone(&count), Arc::clone(&good));
        async move {
            if user.username == "bad" {
                count.fetch_add(1, Ordering::SeqCst);
                return Err(HandlerError::new("cannot"));
            }
            good.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .on_error(OnError::Retry(policy))
    .await
    .unwrap();
    bus.fire(UserRegistered { username: "bad".into(), email: String::new() }).await.unwrap();
    bus.fire(sally()).await.unwrap();
    bus.wait_until_idle().await.unwrap();
    assert_eq!((tries.load(Ordering::SeqCst), handled.load(Ordering::SeqCst)), (3, 1));
    let letters = bus.admin().dead_letters("auth", "watch", 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("cannot"), "{}", letters[0].reason);
    assert_eq!(&*letters[0].event.event, "user_registered");
}

async fn a_panicking_handler_does_not_stop_the_listener(place: Place) {
    let bus = place.bus("auth").await;
    bus.register(AuthClient::contract()).await.unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let policy =
        RetryPolicy::attempts(2).backoff(Duration::from_millis(1), Duration::from_secs(10));
    bus.listen("watch", move |user: UserRegistered| {
        let count = Arc::clone(&count);
        async move {
            assert!(user.username != "bad", "as asked");
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .concurrency(4)
    .on_error(OnError::Retry(policy))
    .await
    .unwrap();
    for name in ["bad", "a", "b"] {
        bus.fire(UserRegistered { username: name.into(), email: String::new() }).await.unwrap();
    }
    bus.wait_until_idle().await.unwrap();
    assert_eq!(handled.load(Ordering::SeqCst), 2);
}

async fn an_unreadable_event_is_set_aside_and_the_listener_goes_on(place: Place) {
    #[lightbus::api(name = "auth", events(Other))]
    pub trait OldAuth {}

    /// The same event in an older form.
    #[derive(lightbus::Event)]
    #[event(name = "user_registered")]
    pub struct Other {
        pub username: u32,
    }

    let (old, new) = (place.bus("old").await, place.bus("new").await);
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    new.listen("watch", move |_: UserRegistered| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    })
    .await
    .unwrap();
    old.register(OldAuthClient::contract()).await.unwrap();
    old.fire(Other { username: 3 }).await.unwrap();
    new.register(AuthClient::contract()).await.unwrap();
    new.fire(sally()).await.unwrap();
    new.wait_until_idle().await.unwrap();
    assert_eq!(handled.load(Ordering::SeqCst), 1);
    assert_eq!(new.admin().dead_letters("new", "watch", 10).await.unwrap().len(), 1);
}

async fn only_an_authority_fires(place: Place) {
    let bus = place.bus("web").await;
    let error = bus.fire(sally()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    assert!(error.to_string().contains("has not registered"), "{error}");
    bus.register(AuthClient::contract()).await.unwrap();
    let error = bus.fire_event("auth.user_registred", args! {}).await.unwrap_err();
    assert!(error.to_string().contains("Did you mean `user_registered`?"), "{error}");
    let error = bus
        .fire_event("auth.user_registered", args! { username: "a", email: 3 })
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let error = bus.fire_event("auth.user_registered", args! { username: "a" }).await.unwrap_err();
    assert!(error.to_string().contains("`email` is missing"), "{error}");
}

async fn a_listener_name_is_taken_once(place: Place) {
    let bus = place.bus("web").await;
    bus.listen("watch", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    let error = bus.listen("watch", |_: UserRegistered| async { Ok(()) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let error = bus.serve(AuthApi(Service::default())).await;
    assert!(error.is_ok());
    let error = bus.serve(AuthApi(Service::default())).await.unwrap_err();
    assert!(error.to_string().contains("already serves the API"), "{error}");
}

async fn schemas_are_shared(place: Place) {
    let (server, other) = (place.bus("auth").await, place.bus("web").await);
    server.serve(AuthApi(Service::default())).await.unwrap();
    let schema = other.schema("auth").await.unwrap().expect("published");
    let parameters = &schema["rpcs"]["check_password"]["parameters"];
    assert_eq!(parameters["required"], serde_json::json!(["username", "password"]));
    assert_eq!(parameters["properties"]["username"]["type"], "string");
    assert_eq!(schema["events"]["user_registered"]["parameters"]["additionalProperties"], false);
    assert!(other.remote_apis().await.unwrap().iter().any(|api| &**api == "auth"));
}

async fn closing_lets_handlers_finish_and_later_calls_say_closed(place: Place) {
    let bus = place.bus("auth").await;
    bus.register(AuthClient::contract()).await.unwrap();
    let (entered, mut inside) = mpsc::channel(1);
    let finished = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&finished);
    bus.listen("watch", move |_: UserRegistered| {
        let (entered, count) = (entered.clone(), Arc::clone(&count));
        async move {
            entered.send(()).await.map_err(|_| HandlerError::new("gone"))?;
            tokio::time::sleep(Duration::from_millis(100)).await;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .await
    .unwrap();
    bus.fire(sally()).await.unwrap();
    soon("the handler", inside.recv()).await.unwrap();
    soon("closing", bus.close()).await.unwrap();
    assert_eq!(finished.load(Ordering::SeqCst), 1);
    let error = bus.call::<bool>("auth.check_password", args! {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    soon("closing twice", bus.close()).await.unwrap();
}

async fn many_calls_at_once_each_get_their_own_answer(place: Place) {
    #[lightbus::api(name = "echo")]
    pub trait Echo {
        async fn echo(&self, number: u64) -> u64;
    }
    struct Echoes;
    impl Echo for Echoes {
        async fn echo(&self, number: u64) -> u64 {
            number
        }
    }
    let (server, caller) = (place.bus("echo").await, place.bus("web").await);
    server.serve(EchoApi(Echoes)).await.unwrap();
    let client = EchoClient::new(&caller);
    let calls = (0..2000).map(|number| {
        let client = client.clone();
        tokio::spawn(
            async move { (number, client.echo(number).timeout(Duration::from_secs(15)).await) },
        )
    });
    let calls: Vec<_> = calls.collect();
    for call in calls {
        let (number, answer) = soon("an answer", call).await.unwrap();
        assert_eq!(answer.unwrap(), number);
    }
    eventually("the service is idle", async || true).await;
}
