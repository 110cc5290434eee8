//! The state of a process on the bus.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use lightbus_core::{Error, FlowControl, Name, Result, ReturnPath};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::{JoinHandle, JoinSet},
};

use super::{Apis, Features, HandlerResult, Ids, Listening, PluginChain, Progress, supervise};
use crate::{
    bus::calls::LocalWorker,
    config::{Config, Names},
    contract::Contract,
    schema::SchemaStore,
};

/// How long consumers may take to return what was cut off.
pub(crate) const GRACE: Duration = Duration::from_secs(2);

/// A process's connection to the bus. Cheap to clone; all clones share the connection.
///
/// When the last clone is dropped, its handlers are dropped as in a crash: calls stay unanswered and
/// unacknowledged events are redelivered. [`close`](Bus::close) and [`run`](Bus::run) shut down in
/// order.
#[derive(Clone)]
pub struct Bus {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) names: Names,
    pub(crate) apis: Apis,
    pub(crate) schema: Arc<SchemaStore>,
    pub(crate) ids: Arc<Ids>,
    pub(crate) calls: Semaphore,
    /// Of the events that may have ended their process one at a time is at work.
    pub(crate) suspects: Arc<Semaphore>,
    /// The return path of a call that has none yet.
    pub(crate) nowhere: ReturnPath,
    pub(crate) features: Features,
    pub(crate) plugins: Arc<dyn PluginChain>,
    pub(crate) drain_timeout: Duration,
    /// Notified whenever a listener has finished with an event.
    pub(crate) handled: Arc<Notify>,
    /// The test that this process is part of.
    #[cfg(feature = "testing")]
    pub(crate) test: Option<Box<dyn TestProbe>>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) state: Mutex<State>,
    /// Held while an API is registered: whoever registers it as well waits for how that ends.
    pub(crate) registering: tokio::sync::Mutex<()>,
}

/// Runs once, at the start or the end of a process.
pub(crate) type Hook = Box<dyn FnOnce(Bus) -> BoxFuture<'static, HandlerResult> + Send>;

/// Everything that the process has started.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) registered: HashMap<Name, &'static Contract>,
    pub(crate) served: HashSet<Name>,
    /// By API, while they work.
    pub(crate) workers: HashMap<Name, Weak<dyn LocalWorker>>,
    pub(crate) listeners: Vec<Arc<dyn Listening>>,
    pub(crate) listener_names: HashSet<Name>,
    pub(crate) consumers: JoinSet<()>,
    pub(crate) progress: Vec<Arc<Progress>>,
    /// Tasks of the bus itself, reported once they have panicked.
    pub(crate) internal: Vec<Arc<Progress>>,
    pub(crate) start_hooks: Vec<Hook>,
    pub(crate) stop_hooks: Vec<Hook>,
    /// All tasks by name, with a description.
    pub(crate) tasks: BTreeMap<Name, String>,
    /// Tasks that `run` is to start.
    pub(crate) waiting: Vec<BoxFuture<'static, ()>>,
    /// Whether `run` has started the tasks.
    pub(crate) runs: bool,
    pub(crate) failure: Option<Error>,
    /// The result of the drain, once it has begun.
    pub(crate) closing: Option<watch::Receiver<Option<Result<()>>>>,
}

/// The phases of a bus, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    /// Asked to stop: `run` will drain.
    Stopping,
    /// Nothing new is taken; handlers may finish.
    Draining,
    /// The time for that is over: handlers are dropped, and their deliveries returned.
    CutOff,
    /// Every operation fails with `Closed`.
    Closed,
}

/// The test that a process is part of. Observes when its calls begin and end.
#[cfg(feature = "testing")]
#[async_trait::async_trait]
pub(crate) trait TestProbe: Send + Sync {
    /// Called when a call begins. The call ends when the returned value is dropped.
    async fn begin_call(
        &self,
        api: &Name,
        procedure: &Name,
        fields: &lightbus_core::Arguments,
        schema: &SchemaStore,
    ) -> Result<Box<dyn std::any::Any + Send>>;
}

impl Bus {
    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("service", &self.inner.names.service)
            .field("process", &self.inner.names.process)
            .field("phase", &*self.inner.phase.borrow())
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Fails once the bus is closed. Calling and firing still work while it drains: handlers that
    /// finish may need them.
    pub(crate) fn ensure_open(&self) -> Result<()> {
        if *self.phase.borrow() >= Phase::Closed { Err(Error::closed("the bus")) } else { Ok(()) }
    }

    /// Fails once the bus drains, when nothing may start to consume any more.
    pub(crate) fn ensure_taking(&self) -> Result<()> {
        if *self.phase.borrow() >= Phase::Draining { Err(Error::closed("the bus")) } else { Ok(()) }
    }

    /// Returns the flow control for a subscription of this process. Closing the subscription waits for
    /// its handlers until they are cut off, and a little longer.
    pub(crate) fn flow(&self, batch: usize, in_flight: usize) -> FlowControl {
        let limit = self.drain_timeout.saturating_add(2 * GRACE);
        FlowControl::new(batch, in_flight).close_within(limit)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the APIs of which this process is an authority, and the events that it listens to.
    pub(crate) fn takes(&self) -> (BTreeSet<Name>, BTreeSet<String>) {
        let state = self.state();
        let selectors = state.listeners.iter().flat_map(|listener| &listener.spec().events);
        let events = selectors.map(|selector| {
            format!("{}.{}", selector.api, selector.event.as_deref().unwrap_or("*"))
        });
        (state.registered.keys().cloned().collect(), events.collect())
    }

    /// Spawns a task of the bus itself, which must end by itself when the bus drains. If it panics, it is
    /// restarted, and reported by [`Bus::health`] from then on.
    pub(crate) fn spawn_internal<Begin, Task>(self: &Arc<Self>, name: &str, begin: Begin)
    where
        Begin: FnMut() -> Task + Send + 'static,
        Task: Future<Output = ()> + Send,
    {
        let progress = Progress::internal(&name.into());
        self.state().internal.push(Arc::clone(&progress));
        let phase = self.watch();
        self.state().consumers.spawn(async move { supervise(&progress, phase, begin).await });
    }

    /// As [`spawn_internal`](Self::spawn_internal), for a task that outlives the drain: closing does not
    /// wait for it.
    pub(crate) fn spawn_detached<Begin, Task>(&self, name: &str, begin: Begin) -> JoinHandle<()>
    where
        Begin: FnMut() -> Task + Send + 'static,
        Task: Future<Output = ()> + Send,
    {
        let progress = Progress::internal(&name.into());
        self.state().internal.push(Arc::clone(&progress));
        let phase = self.watch();
        tokio::spawn(async move { supervise(&progress, phase, begin).await })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Asks `run` to stop with an error. The first error counts.
    pub(crate) fn fail(&self, error: Error) {
        self.state().failure.get_or_insert(error);
        self.advance(Phase::Stopping);
    }

    pub(crate) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }
}
