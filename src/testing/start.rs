//! The bus of a test: in memory with time paused, or on a broker that the environment names.

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

/// The environment variable with the configuration files of a broker to run tests on.
pub const CONFIG_VARIABLE: &str = "LIGHTBUS_TEST_CONFIG";

/// A bus for a test. Dereferences to [`Bus`], so it can be passed to the code under test.
///
/// The bus is in memory, and tokio's time is paused: timeouts and backoff pass as soon as nothing else
/// can run. Time is paused in a current-thread runtime, which is what `#[tokio::test]` creates, with or
/// without `start_paused = true`. In a multi-threaded runtime time runs.
///
/// With [`LIGHTBUS_TEST_CONFIG`](CONFIG_VARIABLE) set to one or more configuration files, separated by
/// commas, the same test runs on the broker that they configure. Then time is not paused, and the names
/// of APIs and services have a prefix on the wire that is unique to the test, so tests may run
/// concurrently on a broker that is not empty.
///
/// Dropping it cuts everything off, as when a process is killed; [`close`](Bus::close) shuts down in
/// order. If it is dropped in a panic, it prints the seed of its [faults](Faults).
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

/// Builds a [`TestBus`].
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
    /// Starts an empty bus.
    ///
    /// # Errors
    ///
    /// Those of [`BusBuilder::connect`], if `LIGHTBUS_TEST_CONFIG` names a configuration.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// Returns a builder.
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

    /// Returns the bus.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Connects another process of a service to the same bus. What it calls and fires is recorded, mocked
    /// and waited for as in the first process. It lives as long as the test's bus, unless it is
    /// [closed](Bus::close) or [killed](Self::kill).
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

    /// Fires an event as if by its service, outside of the code under test. Nothing needs to be
    /// registered, and the event is not recorded.
    ///
    /// # Errors
    ///
    /// Those of [`Bus::fire`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the event may or may not have been fired, and
    /// [`wait_until_idle`](Self::wait_until_idle) may not wait for it.
    pub async fn fire_from_outside<E: Event>(&self, event: E) -> Result<Fired> {
        let outside = self.outside.get_or_try_init(|| self.connect("outside", true)).await?;
        outside.register(E::api()).await?;
        outside.fire(event).await
    }

    /// Returns whether the bus is in memory, rather than on a broker.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        self.in_memory
    }

    /// Returns the injected faults.
    #[must_use]
    pub fn faults(&self) -> Option<&Faults> {
        self.faults.as_ref()
    }

    async fn connect(&self, service: &str, outside: bool) -> Result<Bus> {
        connect(&self.state, &self.registry, &self.config, service, outside).await
    }

    /// Returns how to reproduce the faults, to be appended to an error.
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
    /// Sets the configuration, so that timeouts, validation and the like are as in production. All its
    /// transports are replaced by the memory transport. `LIGHTBUS_TEST_CONFIG` takes precedence.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Runs the test on the broker of a configuration, as if `LIGHTBUS_TEST_CONFIG` named it.
    pub fn broker(mut self, config: Config) -> Self {
        self.broker = Some(config);
        self
    }

    /// Sets the name of the service. Default: `test`.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = name.into();
        self
    }

    /// Sets how many events and how many calls are recorded. Default: 10,000 each. If there are more,
    /// assertions on them fail and say so.
    pub fn keep(mut self, limit: usize) -> Self {
        self.keep = limit;
        self
    }

    /// Refuses every call and event that is not mocked, even of APIs that the test serves. Python's
    /// `require_mocking=True`. By default, all events may be fired, and only calls to APIs that are
    /// neither mocked nor served in the test are refused.
    pub fn require_mocking(mut self) -> Self {
        self.policy = Policy::Nothing;
        self
    }

    /// Allows calls to APIs that are neither mocked nor served in the test: a service outside of it may
    /// answer. Python's `require_mocking=False`.
    pub fn allow_unmocked(mut self) -> Self {
        self.policy = Policy::Everything;
        self
    }

    /// Injects faults.
    pub fn faults(mut self, faults: Faults) -> Self {
        self.faults = Some(faults);
        self
    }

    /// Uses names without a prefix on a broker, to reach services outside of the test. Tests that share
    /// names must not run concurrently.
    pub fn not_isolated(mut self) -> Self {
        self.isolated = false;
        self
    }

    /// Does not pause time in memory.
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
    /// If the future is dropped, nothing remains, except that time may be paused.
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
