//! The bus of a test: in memory with time paused, or on the broker that the environment names.

use std::{
    fmt,
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

use lightbus_core::{Registry, Result};
use tokio::sync::OnceCell;

use super::{
    clock,
    faults::{Faults, SeedGuard},
    isolate::Isolate,
    layer::{all_in_memory, over},
    record::KEEP,
    spy::Spy,
    test_state::{Policy, Probe, TestState},
};
use crate::{Bus, Fired, bus::BusBuilder, config::Config, contract::Event};

/// Names the configuration of a broker to run tests on.
pub const CONFIG_VARIABLE: &str = "LIGHTBUS_TEST_CONFIG";

/// A bus for a test. Dereferences to [`Bus`], so that the code under test takes it unchanged.
///
/// In memory, with tokio's time paused: timeouts and the waits between tries pass as soon as nothing
/// else can run. Time is paused in a runtime of one thread, which is what `#[tokio::test]` makes;
/// `#[tokio::test(start_paused = true)]` is fine too. In a runtime of several threads time runs.
///
/// With [`LIGHTBUS_TEST_CONFIG`](CONFIG_VARIABLE) set to one or more configuration files (commas
/// between), the same test runs on the broker that they name. Then time is not paused, and the names of
/// APIs and services have a prefix on the wire that is this test's alone: nothing has to be flushed, and
/// tests may run at once.
///
/// When it is dropped, everything is cut off, as when a process is killed;
/// [`close`](Bus::close) ends in order. If that happens in a panic, the seed of its
/// [faults](Faults) is printed.
pub struct TestBus {
    bus: Bus,
    pub(super) state: Arc<TestState>,
    config: Config,
    /// The transports of all processes of the test.
    registry: Registry,
    outside: OnceCell<Bus>,
    /// The other processes of the test, kept alive.
    processes: Mutex<Vec<Bus>>,
    faults: Option<Faults>,
    in_memory: bool,
    _guard: Option<SeedGuard>,
}

/// Settings of a [`TestBus`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `start`"]
pub struct TestBusBuilder {
    config: Config,
    broker: Option<Config>,
    service_name: String,
    keep: usize,
    policy: Policy,
    faults: Option<Faults>,
    isolated: bool,
    paused: bool,
}

impl TestBus {
    /// A bus with nothing on it.
    ///
    /// # Errors
    ///
    /// Those of [`BusBuilder::connect`], if `LIGHTBUS_TEST_CONFIG` names a configuration.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// A bus with settings.
    pub fn builder() -> TestBusBuilder {
        TestBusBuilder {
            config: Config::default(),
            broker: None,
            service_name: "test".to_owned(),
            keep: KEEP,
            policy: Policy::default(),
            faults: None,
            isolated: true,
            paused: true,
        }
    }

    /// The bus.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Another process on the same bus, of the service of this name. What it calls and fires is
    /// recorded, mocked and waited for like that of all the others. It lives as long as the test's bus,
    /// unless it is [closed](Bus::close) or [killed](Self::kill).
    ///
    /// # Errors
    ///
    /// Those of [`BusBuilder::connect`].
    pub async fn process(&self, service: &str) -> Result<Bus> {
        let bus = self.connect(service, false).await?;
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).push(bus.clone());
        Ok(bus)
    }

    /// Ends a process of the test as a crash does, if this is its last clone: calls stay unanswered,
    /// unacknowledged events are redelivered.
    pub fn kill(&self, process: Bus) {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.retain(|kept| !Arc::ptr_eq(kept.inner(), process.inner()));
    }

    /// Fires an event as the service would that owns it, somewhere else: nothing has to be registered,
    /// and it is not among what was fired here.
    ///
    /// # Errors
    ///
    /// Those of [`Bus::fire`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the event may or may not have been fired. If it was,
    /// [`wait_until_idle`](Self::wait_until_idle) may not wait for it.
    pub async fn fire_from_outside<E: Event>(&self, event: E) -> Result<Fired> {
        let outside = self.outside.get_or_try_init(|| self.connect("outside", true)).await?;
        outside.register(E::api()).await?;
        outside.fire(event).await
    }

    /// Whether it is in memory, and not on the broker that `LIGHTBUS_TEST_CONFIG` names.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// What goes wrong on purpose.
    #[must_use]
    pub fn faults(&self) -> Option<&Faults> {
        self.faults.as_ref()
    }

    async fn connect(&self, service: &str, outside: bool) -> Result<Bus> {
        connect(&self.state, &self.registry, &self.config, service, outside).await
    }

    /// How to repeat the faults, as the end of an error.
    pub(super) fn seed(&self) -> String {
        self.faults.as_ref().map(|faults| format!("\n{}", faults.describe())).unwrap_or_default()
    }
}

async fn connect(
    state: &Arc<TestState>,
    registry: &Registry,
    config: &Config,
    service: &str,
    outside: bool,
) -> Result<Bus> {
    let spy = Spy { state: Arc::clone(state), outside };
    let builder: BusBuilder = Bus::builder().config(config.clone()).registry(over(registry, &spy));
    builder.service_name(service).test(Probe::new(state)).connect().await
}

impl TestBusBuilder {
    /// With this configuration, so that timeouts, validation and the like are as in production. In
    /// memory its transports are replaced by the one in memory, whatever they are. Where
    /// `LIGHTBUS_TEST_CONFIG` is set, that one counts instead.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// On the broker of this configuration, as if `LIGHTBUS_TEST_CONFIG` named it.
    pub fn broker(mut self, config: Config) -> Self {
        self.broker = Some(config);
        self
    }

    /// As a process of this service: `test`.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = name.into();
        self
    }

    /// Keeps this many events and this many calls to be looked at: 10,000. If there are more,
    /// looking at them fails and says so.
    pub fn keep(mut self, limit: usize) -> Self {
        self.keep = limit;
        self
    }

    /// Refuses every call and every event that is not mocked, also of APIs that the test serves:
    /// Python's `require_mocking=True`. Without it, what is served in the test is called, every event
    /// may be fired, and only calls that nobody would answer are refused.
    pub fn require_mocking(mut self) -> Self {
        self.policy = Policy::Nothing;
        self
    }

    /// Lets calls through that nobody in the test answers: somebody else on the broker may. Python's
    /// `require_mocking=False`.
    pub fn allow_unmocked(mut self) -> Self {
        self.policy = Policy::Everything;
        self
    }

    /// With things going wrong.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// On a broker: with the names as they are, to meet services outside of the test. Tests that share
    /// names must not run at once.
    pub fn not_isolated(mut self) -> Self {
        self.isolated = false;
        self
    }

    /// Lets time run, also in memory.
    pub fn real_time(mut self) -> Self {
        self.paused = false;
        self
    }

    /// Starts the bus.
    ///
    /// # Errors
    ///
    /// Those of [`BusBuilder::connect`], if it is on a broker.
    ///
    /// # Cancel safety
    ///
    /// Dropped, nothing of it stays; but time may be paused.
    pub async fn start(self) -> Result<TestBus> {
        let broker = match std::env::var(CONFIG_VARIABLE) {
            _ if self.broker.is_some() => self.broker,
            Ok(paths) if !paths.trim().is_empty() => {
                let paths = paths.split(',').map(str::trim).filter(|path| !path.is_empty());
                Some(Config::from_files(paths)?)
            }
            _ => None,
        };
        let in_memory = broker.is_none();
        if in_memory && self.paused {
            clock::pause();
        } else {
            clock::resume();
        }
        let config = broker.unwrap_or(self.config);
        let mut registry = if in_memory { all_in_memory() } else { crate::registry() };
        if !in_memory && self.isolated {
            registry = over(&registry, &Isolate::fresh());
        }
        if let Some(faults) = &self.faults {
            registry = faults.around(&registry);
        }
        let state = Arc::new(TestState::new(self.keep, self.policy));
        let bus = connect(&state, &registry, &config, &self.service_name, false).await?;
        let guard = self.faults.as_ref().map(Faults::guard);
        Ok(TestBus {
            bus,
            state,
            config,
            registry,
            outside: OnceCell::new(),
            processes: Mutex::default(),
            faults: self.faults,
            in_memory,
            _guard: guard,
        })
    }
}

impl Deref for TestBus {
    type Target = Bus;

    fn deref(&self) -> &Bus {
        &self.bus
    }
}

impl fmt::Debug for TestBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBus")
            .field("bus", &self.bus)
            .field("in_memory", &self.in_memory)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}
