//! A transport that passes everything on to memory, and does what a script says of it before.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    marker::PhantomData,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lightbus::{Bus, BusBuilder, config::Config, transport::memory::MemoryFactory};
use lightbus_core::{
    AckHandle, Capabilities, ConfigSection, Error, ErrorKind, EventMessage, FlowControl, Name,
    Outcome, Registry, Result, RpcMessage, Source, Subscription, Transport, TransportFactory,
    transport::{
        EventSelector, EventTransport, GroupSpec, HistorySpec, Lag, ListenSpec, ResultTransport,
        RpcTransport, SchemaTransport, ServeSpec,
    },
};
use serde_json::value::RawValue;
use tokio::sync::Notify;

/// What one use of an operation does instead of passing on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Pass,
    /// Never returns.
    Hang,
    /// Fails for now.
    Fail,
    Panic,
    /// Subscribes to nothing: connected, and never a message.
    Silence,
    /// Subscribes, and ends with an error that does not pass.
    End,
    /// Passes on, and ends in that way after [`Script::lose`].
    EndLater,
}

/// What the uses of an operation do, one after the other; then all pass.
#[derive(Debug, Default)]
pub struct Uses {
    acts: Mutex<VecDeque<Act>>,
    count: AtomicUsize,
}

impl Uses {
    pub fn will(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().unwrap().extend(acts);
    }

    /// Forgets what was planned.
    pub fn pass(&self) {
        self.acts.lock().unwrap().clear();
    }

    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    async fn next(&self) -> Result<Act> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let act = self.acts.lock().unwrap().pop_front().unwrap_or(Act::Pass);
        match act {
            Act::Hang => std::future::pending().await,
            Act::Fail => Err(Error::new(ErrorKind::Unavailable, "the broker is away")),
            Act::Panic => panic!("the transport has a bug"),
            act => Ok(act),
        }
    }
}

/// What each operation does.
#[derive(Debug, Default)]
pub struct Script {
    pub listen: Uses,
    pub serve: Uses,
    pub store: Uses,
    pub load: Uses,
    pub close: Uses,
    /// Notified to end a subscription that [ends later](Act::EndLater).
    pub lose: Notify,
    /// Whether all events that wait are for another process of the group.
    pub elsewhere: AtomicBool,
}

/// Memory, and the script that it follows.
#[derive(Clone, Default)]
pub struct Scripted {
    pub script: Arc<Script>,
    memory: Arc<MemoryFactory>,
}

impl Scripted {
    pub fn builder(&self) -> BusBuilder {
        let registry = Registry::new().with(self.clone());
        Bus::builder().config(Config::default()).registry(registry)
    }

    pub async fn bus(&self) -> Bus {
        self.builder().connect().await.unwrap()
    }
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scripted").finish()
    }
}

impl TransportFactory for Scripted {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        Ok(Arc::new(Calls(self.memory.rpc(section)?, Arc::clone(&self.script))))
    }

    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        self.memory.result(section)
    }

    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        Ok(Arc::new(Events(self.memory.event(section)?, Arc::clone(&self.script))))
    }

    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        Ok(Arc::new(Schemas(self.memory.schema(section)?, Arc::clone(&self.script))))
    }
}

#[derive(Debug)]
struct Calls(Arc<dyn RpcTransport>, Arc<Script>);
#[derive(Debug)]
struct Events(Arc<dyn EventTransport>, Arc<Script>);
#[derive(Debug)]
struct Schemas(Arc<dyn SchemaTransport>, Arc<Script>);

macro_rules! forward {
    ($($wrapper:ty),*) => {$(
        #[async_trait]
        impl Transport for $wrapper {
            fn name(&self) -> &'static str {
                self.0.name()
            }

            fn broker(&self) -> String {
                self.0.broker()
            }

            fn capabilities(&self) -> Capabilities {
                self.0.capabilities()
            }

            async fn open(&self) -> Result<()> {
                self.0.open().await
            }

            async fn close(&self) -> Result<()> {
                self.1.close.next().await?;
                self.0.close().await
            }
        }
    )*};
}

forward!(Calls, Events, Schemas);

#[async_trait]
impl RpcTransport for Calls {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        self.0.call(call).await
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let act = self.1.serve.next().await?;
        let subscription = self.0.serve(spec).await?;
        act.subscribe(subscription, &self.1).await
    }

    async fn backlog(&self, api: &str) -> Result<u64> {
        self.0.backlog(api).await
    }
}

#[async_trait]
impl EventTransport for Events {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        self.0.send(events).await
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let act = self.1.listen.next().await?;
        let subscription = self.0.listen(spec).await?;
        // The group is there, also if nothing reads for it.
        act.subscribe(subscription, &self.1).await
    }

    async fn history(
        &self,
        spec: HistorySpec,
    ) -> Result<futures_util::stream::BoxStream<'static, Result<EventMessage>>> {
        self.0.history(spec).await
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        self.0.lag(group, events).await
    }

    async fn waiting_here(&self, spec: &ListenSpec) -> Result<u64> {
        if self.1.elsewhere.load(Ordering::SeqCst) {
            return Ok(0);
        }
        self.0.waiting_here(spec).await
    }
}

#[async_trait]
impl SchemaTransport for Schemas {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        self.1.store.next().await?;
        self.0.store(api, schema, ttl).await
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        self.0.ping(api, ttl).await
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        self.1.load.next().await?;
        self.0.load().await
    }
}

fn nonsense() -> Error {
    Error::new(ErrorKind::Unexpected, "the broker said nonsense")
}

/// Passes on what a subscription has, until it is lost.
struct Relay<M> {
    from: tokio::sync::Mutex<Option<Subscription<M>>>,
    script: Arc<Script>,
}

impl<M: Send + Sync + 'static> Relay<M> {
    /// The limit is that of the subscription: this one always waits for more, so that it sees when it is
    /// lost.
    fn spawn(from: Subscription<M>, script: &Arc<Script>) -> Subscription<M> {
        let relay = Self { from: tokio::sync::Mutex::new(Some(from)), script: Arc::clone(script) };
        Subscription::spawn(relay, FlowControl::new(8, 512))
    }
}

#[async_trait]
impl<M: Send + Sync + 'static> Source for Relay<M> {
    type Message = M;
    type Token = Mutex<Option<AckHandle>>;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<M>, Self::Token)>> {
        let mut from = self.from.lock().await;
        let mut taken = Vec::new();
        let Some(subscription) = from.as_mut() else { return Err(nonsense()) };
        tokio::select! {
            _ = subscription.next_batch(&mut taken, max) => {}
            () = self.script.lose.notified() => {
                // What it has and nothing has taken is given back.
                from.take();
                return Err(nonsense());
            }
        }
        let passed = taken.into_iter().map(|delivery| {
            delivery.map(|delivery| (delivery.message, Mutex::new(Some(delivery.ack))))
        });
        passed.collect()
    }

    async fn settle(&self, settled: &[(Self::Token, Outcome)]) -> Result<()> {
        for (ack, outcome) in settled {
            let ack = ack.lock().unwrap().take();
            if let Some(ack) = ack {
                ack.settle(outcome.clone()).await?;
            }
        }
        Ok(())
    }
}

impl Act {
    async fn subscribe<M: Send + Sync + 'static>(
        self,
        subscription: Subscription<M>,
        script: &Arc<Script>,
    ) -> Result<Subscription<M>> {
        Ok(match self {
            Self::Pass => subscription,
            Self::EndLater => Relay::spawn(subscription, script),
            act => {
                subscription.close().await?;
                Subscription::spawn(Broken(act, PhantomData), FlowControl::new(8, 8))
            }
        })
    }
}

struct Broken<M>(Act, PhantomData<fn() -> M>);

#[async_trait]
impl<M: Send + Sync + 'static> Source for Broken<M> {
    type Message = M;
    type Token = ();

    async fn fetch(&self, _: usize) -> Result<Vec<(Arc<M>, ())>> {
        match self.0 {
            Act::End => Err(nonsense()),
            _ => std::future::pending().await,
        }
    }

    async fn settle(&self, _: &[((), Outcome)]) -> Result<()> {
        Ok(())
    }
}
