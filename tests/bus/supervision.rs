//! A consumer that ended, or stands still although there is work, is begun anew; health shows it.
//!
//! The transport that breaks stands beside the real one: it passes on to memory what it does not break.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lightbus::{
    EventMessage, HistorySpec, Lag, Registry, Result,
    bus::Condition,
    config::Config,
    prelude::*,
    transport::{
        Capabilities, ConfigSection, Error, ErrorKind, FlowControl, Name, Outcome, Source,
        Subscription, Transport, TransportFactory,
        memory::MemoryFactory,
        transport::{
            EventSelector, EventTransport, GroupSpec, ListenSpec, ResultTransport, RpcTransport,
            SchemaTransport,
        },
    },
};
use tokio::sync::mpsc;

#[lightbus::api(name = "clock", events(Struck))]
pub trait Clock {}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Struck {
    pub hour: u64,
}

/// How a subscription is broken.
#[derive(Clone, Copy, Debug)]
enum Breakage {
    /// It is connected, and gives nothing.
    StandsStill,
    /// It ends, with an error that does not pass.
    Ends,
}

/// Memory, whose first subscription to events is broken.
#[derive(Debug)]
struct Breaking {
    memory: MemoryFactory,
    how: Breakage,
    listens: Arc<AtomicUsize>,
}

impl TransportFactory for Breaking {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        self.memory.rpc(section)
    }

    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        self.memory.result(section)
    }

    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        let memory = self.memory.event(section)?;
        Ok(Arc::new(Events { memory, how: self.how, listens: Arc::clone(&self.listens) }))
    }

    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        self.memory.schema(section)
    }
}

#[derive(Debug)]
struct Events {
    memory: Arc<dyn EventTransport>,
    how: Breakage,
    listens: Arc<AtomicUsize>,
}

struct Broken(Breakage);

#[async_trait]
impl Source for Broken {
    type Message = EventMessage;
    type Token = ();

    async fn fetch(&self, _: usize) -> Result<Vec<(Arc<EventMessage>, ())>> {
        match self.0 {
            Breakage::StandsStill => std::future::pending().await,
            Breakage::Ends => Err(Error::new(ErrorKind::Unexpected, "the broker said nonsense")),
        }
    }

    async fn settle(&self, _: &[((), Outcome)]) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Transport for Events {
    fn name(&self) -> &'static str {
        self.memory.name()
    }

    fn broker(&self) -> String {
        self.memory.broker()
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    async fn open(&self) -> Result<()> {
        self.memory.open().await
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }
}

#[async_trait]
impl EventTransport for Events {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        self.memory.send(events).await
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let subscription = self.memory.listen(spec).await?;
        if self.listens.fetch_add(1, Ordering::SeqCst) > 0 {
            return Ok(subscription);
        }
        // The group is there, and nobody reads for it.
        subscription.close().await?;
        Ok(Subscription::spawn(Broken(self.how), FlowControl::new(8, 8)))
    }

    async fn history(
        &self,
        spec: HistorySpec,
    ) -> Result<futures_util::stream::BoxStream<'static, Result<EventMessage>>> {
        self.memory.history(spec).await
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        self.memory.lag(group, events).await
    }
}

async fn start(how: Breakage) -> (Bus, Arc<AtomicUsize>, mpsc::Receiver<u64>) {
    let listens = Arc::new(AtomicUsize::new(0));
    let breaking =
        Breaking { memory: MemoryFactory::default(), how, listens: Arc::clone(&listens) };
    let bus = Bus::builder().config(Config::default()).registry(Registry::new().with(breaking));
    let bus = bus.connect().await.unwrap();
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
    (bus, listens, hours)
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_stands_still_is_begun_anew() {
    let (bus, listens, mut hours) = start(Breakage::StandsStill).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(listens.load(Ordering::SeqCst), 1, "nothing to do is no reason");
    assert!(bus.health().healthy);

    bus.fire(Struck { hour: 1 }).await.unwrap();
    let hour = tokio::time::timeout(Duration::from_secs(90), hours.recv()).await;
    assert_eq!(hour.expect("within a minute or so"), Some(1));
    assert_eq!(listens.load(Ordering::SeqCst), 2);
    let health = bus.health();
    assert!(health.healthy && health.parts[0].restarts == 1, "{health:?}");
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_transport_gave_up_is_begun_anew() {
    let (bus, listens, mut hours) = start(Breakage::Ends).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let health = bus.health();
    assert!(!health.healthy, "{health:?}");
    assert_eq!(health.parts[0].condition, Condition::Restarting);
    assert!(health.parts[0].last_error.as_ref().unwrap().contains("the broker said nonsense"));

    bus.fire(Struck { hour: 1 }).await.unwrap();
    assert_eq!(hours.recv().await, Some(1));
    assert_eq!(listens.load(Ordering::SeqCst), 2);
    let health = bus.health();
    assert!(health.healthy && health.parts[0].restarts == 1, "{health:?}");
    assert_eq!(health.parts[0].last_error, None);
    bus.close().await.unwrap();
}
