//! The bus: calling, serving, firing, listening, running.

mod apis;
mod batches;
mod builder;
mod call;
mod consumer;
mod dead_letters;
mod features;
mod fire;
mod fire_on_behalf;
mod guarantees;
mod handlers;
mod health;
mod history;
mod hooks;
mod idle;
mod ids;
mod inspect;
mod lanes;
#[cfg(feature = "tower")]
mod layer;
mod limits;
mod listen;
mod listener;
mod on_error;
mod received;
mod run;
mod serve;
mod signals;
mod startup;
mod tasks;
mod watchdog;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lightbus_core::{Error, ErrorKind, FlowControl, Name, Result, ReturnPath};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
};

pub use builder::BusBuilder;
pub use call::{Call, Failure};
pub use dead_letters::HandledDeadLetters;
pub use features::Features;
pub use fire::Fired;
pub use health::{Condition, Health, Life, PartHealth, PartKind};
pub use inspect::{Diagnosis, Route};
#[cfg(feature = "tower")]
pub use layer::{Handling, Procedures};
pub use listen::Listen;
pub use on_error::{HandlerError, HandlerResult, OnError, RetryPolicy};
pub use received::{FromEvent, Received};
pub use serve::Serve;
pub use tasks::Task;

use crate::{
    config::{Config, Names},
    contract::Contract,
    plugins::Plugins,
    schema::{Change, Schema, SchemaStore},
};
use apis::Apis;
use ids::Ids;

/// A process' place on the bus. Cheap to clone; all clones are the same place.
///
/// When the last clone is dropped, what it serves and listens to is cut off, as in a crash: calls
/// are left unanswered and unacknowledged events come again. [`close`](Bus::close) and
/// [`run`](Bus::run) end it in order.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) names: Names,
    pub(crate) apis: Apis,
    pub(crate) schema: Arc<SchemaStore>,
    pub(crate) ids: Arc<Ids>,
    pub(crate) calls: Semaphore,
    /// The return path of a call that has none yet.
    nowhere: ReturnPath,
    pub(crate) features: Features,
    pub(crate) plugins: Arc<Plugins>,
    drain_timeout: Duration,
    /// Rings whenever a listener is done with an event.
    pub(crate) handled: Arc<Notify>,
    /// The test that this process is part of.
    #[cfg(feature = "testing")]
    pub(crate) test: Option<crate::testing::Watch>,
    phase: watch::Sender<Phase>,
    state: Mutex<State>,
}

/// What the process has begun.
#[derive(Default)]
struct State {
    registered: HashMap<Name, &'static Contract>,
    served: HashSet<Name>,
    listeners: Vec<Arc<listener::Listener>>,
    listener_names: HashSet<Name>,
    consumers: JoinSet<()>,
    progress: Vec<Arc<health::Progress>>,
    hooks: hooks::Hooks,
    /// All tasks, in words.
    tasks: BTreeMap<Name, String>,
    /// Those that wait for `run`.
    waiting: Vec<tasks::Added>,
    /// Whether `run` has started the tasks.
    runs: bool,
    failure: Option<Error>,
}

/// How far a bus has come in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Running,
    /// Something asked to stop: `run` will drain.
    Stopping,
    /// Nothing new is taken; what runs may finish.
    Draining,
    /// The time for that is over: what still runs is dropped, and given back.
    CutOff,
    /// Nothing goes any more.
    Closed,
}

impl Bus {
    /// A bus with the configuration that `LIGHTBUS_CONFIG` names, or in memory without one.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the configuration is wrong;
    /// [`Unavailable`](ErrorKind::Unavailable) if a broker that it names does not answer.
    pub async fn from_env() -> Result<Self> {
        Self::builder().connect().await
    }

    /// A bus of its own that stays in this process: for tests and first steps.
    ///
    /// # Errors
    ///
    /// Only if the feature `memory` is off.
    pub async fn in_memory() -> Result<Self> {
        Self::builder().config(Config::default()).connect().await
    }

    /// A bus that is configured by the program.
    pub fn builder() -> BusBuilder {
        BusBuilder::new()
    }

    /// Under which name of a service this process is on the bus.
    #[must_use]
    pub fn service_name(&self) -> &str {
        &self.inner.names.service
    }

    /// The name of this process within its service.
    #[must_use]
    pub fn process_name(&self) -> &str {
        &self.inner.names.process
    }

    /// Makes this process an authority of an API that it does not serve: it may fire its events,
    /// and publishes its schema.
    ///
    /// ```no_run
    /// # use lightbus::prelude::*;
    /// # #[lightbus::api(name = "auth")] pub trait Auth {}
    /// # async fn example(bus: Bus) -> lightbus::Result<()> {
    /// bus.register(AuthClient::contract()).await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the API's name cannot be used, or another contract has it in
    /// this process, or it breaks users of the API and `bus.schema.on_incompatible` is `refuse`, or it
    /// `requires` what the configured transport cannot do, and the API's `on_missing` is not `warn`;
    /// [`Unavailable`](ErrorKind::Unavailable) if the schema cannot be published.
    pub async fn register(&self, contract: &'static Contract) -> Result<()> {
        self.inner.ensure_open()?;
        lightbus_core::name::check_api(contract.name)?;
        self.inner.check_guarantees(contract)?;
        {
            let mut state = self.inner.state();
            match state.registered.get(contract.name) {
                Some(other) if !std::ptr::eq(*other, contract) => {
                    return Err(Error::new(
                        ErrorKind::Config,
                        format!("another contract is registered as `{}`", contract.name),
                    ));
                }
                Some(_) => return Ok(()),
                None => state.registered.insert(contract.name.into(), contract),
            };
        }
        self.inner.schema.publish(contract).await.map_err(|error| {
            self.inner.state().registered.remove(contract.name);
            error.during(format!("publishing the schema of {}", contract.name))
        })
    }

    /// Fails unless every transport of the configuration reaches other processes: for programs that
    /// make no sense alone.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) that says how to choose a transport.
    pub fn require_shared(&self) -> Result<()> {
        let Some(name) = self.inner.apis.unshared() else {
            return Ok(());
        };
        let error = Error::new(
            ErrorKind::Config,
            format!(
                "the transport `{name}` cannot reach another process, and this program needs one"
            ),
        )
        .with("config", self.inner.config.origin());
        Err(error.hint(
            "Choose a transport in a configuration file and name it: LIGHTBUS_CONFIG=examples/redis.yaml",
        ))
    }

    /// The APIs whose schemas are on the bus, as far as this process has read it. Sorted.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the bus cannot be read.
    pub async fn remote_apis(&self) -> Result<Vec<Name>> {
        self.inner.schema.load().await?;
        Ok(self.inner.schema.apis())
    }

    /// The document that describes an API on the bus, or `None` if nobody has published one.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the bus cannot be read.
    pub async fn schema(&self, api: &str) -> Result<Option<serde_json::Value>> {
        self.inner.schema.load().await?;
        let schema = self.inner.schema.get(api);
        schema
            .map(|schema| lightbus_core::codec::decode(schema.text().get().as_bytes()))
            .transpose()
    }

    /// Puts a document on the bus that this process neither serves nor renews: it is gone after
    /// `bus.schema.ttl`, unless a process of the API renews it. For tools.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the API's name cannot be used;
    /// [`Unavailable`](ErrorKind::Unavailable) if it cannot be stored.
    pub async fn publish_schema(&self, schema: &Schema) -> Result<()> {
        self.inner.ensure_open()?;
        lightbus_core::name::check_api(schema.api())?;
        self.inner.schema.store(schema).await.map_err(|error| {
            let error = apis::at(&**self.inner.schema.transport(), error);
            error.during(format!("publishing the schema of {}", schema.api()))
        })
    }

    /// What would change for the users of an API if this contract took the place of the one on the
    /// bus; nothing if none is there. Serving and registering do the same by themselves, and act
    /// as `bus.schema.on_incompatible` says.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the bus cannot be read.
    pub async fn compare_schema(&self, contract: &Contract) -> Result<Vec<Change>> {
        let old = self.inner.schema.on_the_bus(contract.name).await?;
        Ok(old.map_or_else(Vec::new, |old| Schema::compare(&old, &Schema::of(contract))))
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    pub(crate) fn from_inner(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

impl Inner {
    /// Calling and firing go on while the bus drains: handlers that finish may need it.
    pub(crate) fn ensure_open(&self) -> Result<()> {
        if *self.phase.borrow() >= Phase::Closed { Err(Error::closed("the bus")) } else { Ok(()) }
    }

    /// Nothing new begins to take once the bus drains.
    fn ensure_taking(&self) -> Result<()> {
        if *self.phase.borrow() >= Phase::Draining { Err(Error::closed("the bus")) } else { Ok(()) }
    }

    /// How much a subscription of this process takes. It waits for what its handlers hold until they
    /// are cut off, and a little longer.
    fn flow(&self, batch: usize, in_flight: usize) -> FlowControl {
        let limit = self.drain_timeout.saturating_add(2 * run::GRACE);
        FlowControl::new(batch, in_flight).close_within(limit)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The APIs of which this process is an authority, and the events to which it listens.
    pub(crate) fn takes(&self) -> (BTreeSet<Name>, BTreeSet<String>) {
        let state = self.state();
        let selectors = state.listeners.iter().flat_map(|listener| &listener.spec.events);
        let events = selectors.map(|selector| {
            format!("{}.{}", selector.api, selector.event.as_deref().unwrap_or("*"))
        });
        (state.registered.keys().cloned().collect(), events.collect())
    }

    /// Runs a consumer until the bus drains; it watches the phase itself.
    fn spawn_consumer(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.state().consumers.spawn(task);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Asks `run` to stop; the first reason stays.
    pub(crate) fn fail(&self, error: Error) {
        self.state().failure.get_or_insert(error);
        self.advance(Phase::Stopping);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
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
