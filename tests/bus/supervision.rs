//! A consumer that ended, or is stalled, is restarted; health shows it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{
    Error, ErrorKind, EventMessage, Registry, Result,
    config::Config,
    health::Condition,
    prelude::*,
    transport::{
        ConfigSection, EventTransport, ResultTransport, RpcTransport, SchemaTransport, Transport,
        TransportFactory, memory::MemoryFactory,
    },
};
use lightbus_tests::scripted::{Act, Scripted};
use tokio::sync::{Semaphore, mpsc};

#[lightbus::api(name = "clock", events(Struck))]
pub trait Clock {}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Struck {
    pub hour: u64,
}

async fn start(act: Act) -> (Bus, Scripted, mpsc::Receiver<u64>) {
    let scripted = Scripted::default();
    scripted.script.listen.will([act]);
    let bus = scripted.bus().await;
    bus.register(ClockClient::contract()).await.unwrap();
    let (heard, hours) = mpsc::channel(64);
    bus.listen("hours", move |event: Struck| {
        let heard = heard.clone();
        async move {
            heard.send(event.hour).await?;
            Ok(())
        }
    })
    .await
    .unwrap();
    (bus, scripted, hours)
}

#[tokio::test(start_paused = true)]
async fn a_stalled_listener_is_restarted() {
    let (bus, scripted, mut hours) = start(Act::Silence).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(scripted.script.listen.count(), 1, "nothing to do is no reason");
    assert!(bus.health().healthy);

    bus.fire(Struck { hour: 1 }).await.unwrap();
    let hour = tokio::time::timeout(Duration::from_secs(90), hours.recv()).await;
    assert_eq!(hour.expect("within a minute or so"), Some(1));
    assert_eq!(scripted.script.listen.count(), 2);
    let health = bus.health();
    assert!(health.healthy && health.parts[0].restarts == 1, "{health:?}");
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stalled_worker_is_restarted() {
    let scripted = Scripted::default();
    scripted.script.serve.will([Act::Silence]);
    let bus = scripted.bus().await;
    let gate = Gate::new();
    gate.go.add_permits(1);
    bus.serve(BellApi(gate)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(scripted.script.serve.count(), 1, "nothing to do is no reason");
    assert!(bus.health().healthy);

    let rung = BellClient::new(&bus).ring().timeout(Duration::from_secs(90)).await;
    assert!(rung.expect("within a minute or so"));
    assert_eq!(scripted.script.serve.count(), 2);
    let health = bus.health();
    assert!(health.healthy && health.parts[0].restarts == 1, "{health:?}");
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listener_is_left_alone_while_what_waits_is_for_other_processes() {
    let (bus, scripted, mut hours) = start(Act::Silence).await;
    scripted.script.elsewhere.store(true, Ordering::SeqCst);
    bus.fire(Struck { hour: 1 }).await.unwrap();
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        let health = bus.health();
        assert!(health.healthy && health.parts[0].restarts == 0, "{health:?}");
    }
    assert_eq!(scripted.script.listen.count(), 1);
    // It is its own again, and still not taken.
    scripted.script.elsewhere.store(false, Ordering::SeqCst);
    let hour = tokio::time::timeout(Duration::from_secs(90), hours.recv()).await;
    assert_eq!(hour.expect("within a minute or so"), Some(1));
    assert_eq!(scripted.script.listen.count(), 2);
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_transport_gave_up_is_restarted() {
    let (bus, scripted, mut hours) = start(Act::End).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let health = bus.health();
    assert!(!health.healthy, "{health:?}");
    assert_eq!(health.parts[0].condition, Condition::Restarting);
    assert!(health.parts[0].last_error.as_ref().unwrap().contains("the broker said nonsense"));

    bus.fire(Struck { hour: 1 }).await.unwrap();
    assert_eq!(hours.recv().await, Some(1));
    assert_eq!(scripted.script.listen.count(), 2);
    let health = bus.health();
    assert!(health.healthy && health.parts[0].restarts == 1, "{health:?}");
    assert_eq!(health.parts[0].last_error, None);
    bus.close().await.unwrap();
}

#[lightbus::api(name = "bell", events(Rung))]
pub trait Bell {
    async fn ring(&self) -> bool;
}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Rung {}

/// What runs at once, and what lets one end.
#[derive(Clone)]
struct Gate {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    go: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { now: Arc::default(), most: Arc::default(), go: Arc::new(Semaphore::new(0)) }
    }

    async fn pass(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.go.acquire().await.unwrap().forget();
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    /// Loses the subscription while two run, and lets all go on once there is another one.
    async fn outlives(&self, scripted: &Scripted, subscribed: impl Fn() -> usize) {
        while self.now.load(Ordering::SeqCst) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        scripted.script.lose.notify_one();
        while subscribed() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.go.add_permits(1000);
    }
}

impl Bell for Gate {
    async fn ring(&self) -> bool {
        self.pass().await;
        true
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_run_at_once_after_a_subscription_was_replaced() {
    let scripted = Scripted::default();
    scripted.script.serve.will([Act::EndLater]);
    scripted.script.listen.will([Act::EndLater]);
    let bus = scripted.bus().await;
    let gate = Gate::new();
    bus.serve(BellApi(gate.clone())).concurrency(2).await.unwrap();
    let client = BellClient::new(&bus);
    let calls = (0..8).map(|_| client.ring().timeout(Duration::from_secs(60)).into_future());
    let calls = tokio::spawn(futures_util::future::join_all(calls));
    gate.outlives(&scripted, || scripted.script.serve.count()).await;
    let rung = calls.await.unwrap();
    assert!(rung.iter().all(|rung| matches!(rung, Ok(true))), "{rung:?}");
    assert_eq!(gate.most.load(Ordering::SeqCst), 2, "calls");

    let (gate, handled) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (passes, count) = (gate.clone(), Arc::clone(&handled));
    let listen = bus.listen("rings", move |_: Rung| {
        let (passes, count) = (passes.clone(), Arc::clone(&count));
        async move {
            passes.pass().await;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    listen.concurrency(2).await.unwrap();
    for _ in 0..8 {
        bus.fire(Rung {}).await.unwrap();
    }
    gate.outlives(&scripted, || scripted.script.listen.count()).await;
    while handled.load(Ordering::SeqCst) < 8 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gate.most.load(Ordering::SeqCst), 2, "events");
    bus.close().await.unwrap();
}

/// Memory whose transports can be closed behind the back of the bus.
#[derive(Debug, Default)]
struct Closable {
    memory: MemoryFactory,
    made: std::sync::Mutex<Vec<Arc<dyn Transport>>>,
}

impl Closable {
    fn keep<T: Clone>(&self, made: T, transport: impl FnOnce(T) -> Arc<dyn Transport>) -> T {
        self.made.lock().unwrap().push(transport(made.clone()));
        made
    }

    async fn close(&self) {
        let made = self.made.lock().unwrap().clone();
        for transport in made {
            transport.close().await.unwrap();
        }
    }
}

#[derive(Debug)]
struct Shared(Arc<Closable>);

impl TransportFactory for Shared {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        Ok(self.0.keep(self.0.memory.rpc(section)?, |made| made))
    }

    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        Ok(self.0.keep(self.0.memory.result(section)?, |made| made))
    }

    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        Ok(self.0.keep(self.0.memory.event(section)?, |made| made))
    }

    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        Ok(self.0.keep(self.0.memory.schema(section)?, |made| made))
    }
}

#[tokio::test]
async fn whatever_fails_in_a_transport_the_bus_names_the_operation() {
    let transports = Arc::new(Closable::default());
    let registry = Registry::new().with(Shared(Arc::clone(&transports)));
    let bus = Bus::builder().config(Config::default()).registry(registry);
    let bus = bus.connect().await.unwrap();
    bus.register(ClockClient::contract()).await.unwrap();
    let heard = async |_: Arc<EventMessage>| -> lightbus::HandlerResult { Ok(()) };
    bus.listen_to("hours", ["clock.struck"], heard).await.unwrap();
    let admin = bus.admin();
    transports.close().await;

    let letter = lightbus::DeadLetter {
        id: "1".into(),
        event: EventMessage::new("e", "clock", "struck", 1, lightbus::Arguments::new()),
        group: lightbus::admin::GroupSpec::new("clock", "hours"),
        reason: "no".into(),
        attempts: 1,
        time: std::time::SystemTime::now(),
    };
    let letters = std::slice::from_ref(&letter);
    let service = bus.service_name();
    let calling = bus.call::<u64>("other.run", lightbus::args! {}).await.unwrap_err();
    let failed: Vec<(&str, Option<Error>)> = vec![
        ("other.run", Some(calling)),
        ("clock.struck", bus.fire(Struck { hour: 1 }).await.err()),
        ("later", bus.listen_to("later", ["clock.struck"], heard).await.err()),
        ("schema", bus.remote_apis().await.err()),
        ("idle", bus.wait_until_idle().await.err()),
        ("clock.*", admin.history("clock.*", None, None).await.err()),
        ("hours", admin.lag("clock", service, "hours").await.err()),
        ("hours", admin.dead_letters(service, "hours", 9).await.err()),
        ("hours", admin.dead_letters_after(service, "hours", &letter, 9).await.err()),
        ("hours", admin.remove_dead_letters(service, "hours", letters).await.err()),
        ("hours", admin.requeue_dead_letters(service, "hours", letters).await.err()),
        ("hours", admin.handle_dead_letters("hours", 9).await.err()),
        ("hours", admin.forget_listener(service, "hours", ["clock.struck"]).await.err()),
    ];
    for (subject, error) in failed {
        let error = error.unwrap_or_else(|| panic!("{subject}: the transports are closed"));
        assert!(error.operation().contains(subject), "{subject}: {error}");
        assert_eq!(error.kind(), ErrorKind::Closed, "{subject}: {error}");
    }
}
