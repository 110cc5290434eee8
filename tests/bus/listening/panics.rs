//! Code of users that panics where no one expects it: an ordinary failure, or told and passed over.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{EventMessage, plugins::Plugin, prelude::*};
use lightbus_tests::{Place, on_every_transport, soon};
use tower::util::MapRequestLayer;

use super::contracts::{Notes, Ordered, order, register, tries};

on_every_transport!(
    an_error_that_panics_when_it_is_shown_is_an_ordinary_failure,
    a_plugin_that_panics_before_handling_is_a_failure_of_the_event,
    a_plugin_that_panics_after_handling_leaves_the_event_done,
);

/// Panics when it is shown.
#[derive(Debug)]
struct Hidden;

impl fmt::Display for Hidden {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("as asked")
    }
}

impl std::error::Error for Hidden {}

/// Shown well, but its cause panics.
#[derive(Debug)]
struct Caused(Hidden);

impl fmt::Display for Caused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("on the surface")
    }
}

impl std::error::Error for Caused {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

/// Panics when it is dropped.
struct Drops;

impl Drop for Drops {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "as asked");
    }
}

/// Handles events of which number 1 fails in this way; the others are noted.
async fn watch<F>(bus: &Bus, concurrency: usize, fail: F) -> Notes
where
    F: Fn() -> HandlerResult + Clone + Send + Sync + 'static,
{
    let notes = Notes::default();
    let noted = notes.clone();
    bus.listen(&format!("watch{concurrency}"), move |event: Ordered| {
        let (noted, fail) = (noted.clone(), fail.clone());
        async move {
            if event.number == 1 {
                fail()?;
            }
            noted.add(event.number.to_string());
            Ok(())
        }
    })
    .concurrency(concurrency)
    .on_error(tries(2))
    .await
    .unwrap();
    notes
}

async fn reasons(bus: &Bus, listener: &str) -> Vec<String> {
    let letters = bus.admin().dead_letters("shop", listener, 100).await.unwrap();
    letters.into_iter().map(|letter| letter.reason).collect()
}

async fn an_error_that_panics_when_it_is_shown_is_an_ordinary_failure(place: Place) {
    for concurrency in [1, 8] {
        let bus = place.bus("shop").await;
        register(&bus).await;
        let notes = watch(&bus, concurrency, || Err(Hidden)?).await;
        for number in [0, 1, 2, 3] {
            order(&bus, "anna", number).await;
        }
        bus.wait_until_idle().await.unwrap();
        assert_eq!(notes.all(), ["0", "2", "3"], "its key goes on");
        let reasons = reasons(&bus, &format!("watch{concurrency}")).await;
        assert_eq!(reasons.len(), 1);
        assert!(reasons[0].contains("could not be shown"), "{reasons:?}");
        let health = bus.health();
        assert!(health.healthy && health.parts[0].restarts == 0, "{health:?}");
        soon("closing", bus.close()).await.unwrap();
    }
}

/// Panics where it says.
struct Panics(&'static str, Arc<AtomicUsize>);

impl Panics {
    fn at(&self, place: &str) {
        if self.0 == place {
            self.1.fetch_add(1, Ordering::SeqCst);
            panic!("as asked");
        }
    }
}

#[lightbus::async_trait]
impl Plugin for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    async fn before_rpc_call(&self, _: &Bus, _: &mut lightbus::RpcMessage) -> lightbus::Result<()> {
        Ok(())
    }

    async fn before_rpc_execution(
        &self,
        _: &Bus,
        _: &mut lightbus::RpcMessage,
    ) -> lightbus::Result<()> {
        self.at("before execution");
        Ok(())
    }

    async fn after_rpc_execution(
        &self,
        _: &Bus,
        _: &lightbus::RpcMessage,
        _: &mut lightbus::ResultMessage,
    ) -> lightbus::Result<()> {
        self.at("after execution");
        Ok(())
    }

    async fn before_event_execution(
        &self,
        _: &Bus,
        _: &mut EventMessage,
        _: &str,
    ) -> lightbus::Result<()> {
        self.at("before handling");
        Ok(())
    }

    async fn after_event_execution(
        &self,
        _: &Bus,
        _: &EventMessage,
        _: &str,
    ) -> lightbus::Result<()> {
        self.at("after handling");
        Ok(())
    }
}

async fn with_plugin(place: &Place, at: &'static str) -> (Bus, Arc<AtomicUsize>) {
    let times = Arc::new(AtomicUsize::new(0));
    let builder = place.builder("shop", "", |_| ()).plugin(Panics(at, Arc::clone(&times)));
    let bus = soon("connecting", builder.connect()).await.unwrap();
    register(&bus).await;
    (bus, times)
}

async fn a_plugin_that_panics_before_handling_is_a_failure_of_the_event(place: Place) {
    for concurrency in [1, 8] {
        let (bus, times) = with_plugin(&place, "before handling").await;
        let notes = watch(&bus, concurrency, || Ok(())).await;
        order(&bus, "anna", 1).await;
        bus.wait_until_idle().await.unwrap();
        assert_eq!((notes.all().len(), times.load(Ordering::SeqCst)), (0, 2));
        let reasons = reasons(&bus, &format!("watch{concurrency}")).await;
        assert!(reasons.len() == 1 && reasons[0].contains("as asked"), "{reasons:?}");
        soon("closing", bus.close()).await.unwrap();
    }
}

async fn a_plugin_that_panics_after_handling_leaves_the_event_done(place: Place) {
    for concurrency in [1, 8] {
        let (bus, times) = with_plugin(&place, "after handling").await;
        let notes = watch(&bus, concurrency, || Ok(())).await;
        order(&bus, "anna", 1).await;
        bus.wait_until_idle().await.unwrap();
        assert_eq!((notes.all().len(), times.load(Ordering::SeqCst)), (1, 1));
        assert!(reasons(&bus, &format!("watch{concurrency}")).await.is_empty());
        assert!(bus.health().healthy);
        soon("closing", bus.close()).await.unwrap();
    }
}

#[tokio::test]
async fn an_error_whose_cause_panics_is_an_ordinary_failure() {
    let bus = Place::memory().unwrap().bus("shop").await;
    register(&bus).await;
    watch(&bus, 1, || Err(Caused(Hidden))?).await;
    order(&bus, "anna", 1).await;
    bus.wait_until_idle().await.unwrap();
    assert_eq!(reasons(&bus, "watch1").await, ["on the surface"]);
}

#[tokio::test]
async fn a_panic_while_a_handlers_future_is_dropped_is_an_ordinary_failure() {
    for concurrency in [1, 8] {
        for hangs in [false, true] {
            let bus = Place::memory().unwrap().bus("shop").await;
            register(&bus).await;
            let noted = Notes::default();
            let kept = noted.clone();
            bus.listen("watch", move |event: Ordered| {
                let kept = kept.clone();
                // Held until the future is dropped: after its end, or when it is cut off.
                let drops = (event.number == 1).then(|| Drops);
                let work = async move {
                    if event.number == 1 && hangs {
                        std::future::pending::<()>().await;
                    }
                    kept.add(event.number.to_string());
                    Ok(())
                };
                Holding(Box::pin(work), drops)
            })
            .timeout(Duration::from_millis(50))
            .concurrency(concurrency)
            .on_error(tries(2))
            .await
            .unwrap();
            for number in [1, 2] {
                order(&bus, "anna", number).await;
            }
            bus.wait_until_idle().await.unwrap();
            assert!(noted.all().contains(&"2".to_owned()), "the others go on");
            let reasons = reasons(&bus, "watch").await;
            assert!(reasons.len() == 1 && reasons[0].contains("panicked"), "{reasons:?}");
            assert_eq!(bus.health().parts[0].restarts, 0, "{:?}", bus.health());
        }
    }
}

/// A future with something that is dropped with it.
struct Holding<F>(std::pin::Pin<Box<F>>, #[expect(dead_code, reason = "dropped")] Option<Drops>);

impl<F: Future> Future for Holding<F> {
    type Output = F::Output;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<F::Output> {
        self.0.as_mut().poll(context)
    }
}

/// Panics when it is serialised.
#[derive(Debug, serde::Deserialize, lightbus::JsonSchema)]
pub struct Unwritable {}

impl serde::Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("as asked")
    }
}

#[lightbus::api(name = "brittle")]
pub trait Brittle {
    async fn write(&self) -> Unwritable;
    async fn hold(&self) -> bool;
}

struct Service;

impl Brittle for Service {
    async fn write(&self) -> Unwritable {
        Unwritable {}
    }

    async fn hold(&self) -> bool {
        let _held = Drops;
        true
    }
}

#[tokio::test]
async fn a_procedure_whose_result_hooks_or_locals_panic_is_a_failure_of_the_call() {
    for at in ["never", "before execution", "after execution"] {
        let (bus, _) = with_plugin(&Place::memory().unwrap(), at).await;
        bus.serve(BrittleApi(Service)).await.unwrap();
        let client = BrittleClient::new(&bus);
        for _ in 0..2 {
            let error = client.write().await.unwrap_err();
            assert!(error.to_string().contains("panicked: as asked"), "{at}: {error}");
            let error = client.hold().await.unwrap_err();
            assert!(error.to_string().contains("panicked: as asked"), "{at}: {error}");
        }
        let health = bus.health();
        assert!(health.healthy && health.parts[0].restarts == 0, "{health:?}");
    }
}

fn panics<T>(request: T) -> T {
    assert!(std::thread::panicking(), "as asked");
    request
}

#[tokio::test]
async fn a_tower_layer_that_panics_is_a_failure_of_the_call_and_of_the_event() {
    let bus = Place::memory().unwrap().bus("shop").await;
    register(&bus).await;
    bus.serve(BrittleApi(Service)).layer(MapRequestLayer::new(panics)).await.unwrap();
    let error = BrittleClient::new(&bus).hold().await.unwrap_err();
    assert!(error.to_string().contains("panicked: as asked"), "{error}");
    let listen = bus.listen("watch", |_: Ordered| async { Ok(()) });
    listen.layer(MapRequestLayer::new(panics)).on_error(tries(2)).await.unwrap();
    order(&bus, "anna", 1).await;
    bus.wait_until_idle().await.unwrap();
    let reasons = reasons(&bus, "watch").await;
    assert!(reasons.len() == 1 && reasons[0].contains("as asked"), "{reasons:?}");
}
