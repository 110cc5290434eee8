//! Building a bus from a configuration.

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use lightbus_core::{Error, ErrorKind, Registry, Result, ReturnPath, transport::SchemaTransport};
use tokio::sync::{Semaphore, watch};

use super::{
    process::keep_schemas,
    shared::{Apis, Bus, Features, Ids, Inner, Phase, State, at, check_named, schema_transport},
};
use crate::{
    config::{Config, Loader, Names, Warning},
    plugins::{MetricsPlugin, Plugin, Plugins, StatePlugin},
    schema::SchemaStore,
};

/// The default of [`BusBuilder::drain_timeout`].
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

/// Builds a [`Bus`] with settings chosen by the program.
#[derive(Default)]
#[must_use = "a builder does nothing until `connect`"]
pub struct BusBuilder {
    config: Option<Config>,
    registry: Option<Registry>,
    service_name: Option<String>,
    process_name: Option<String>,
    features: Option<Features>,
    drain_timeout: Option<Duration>,
    plugins: Vec<Arc<dyn Plugin>>,
    #[cfg(feature = "testing")]
    test: Option<Box<dyn super::TestProbe>>,
}

impl fmt::Debug for BusBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusBuilder")
            .field("config", &self.config)
            .field("service_name", &self.service_name)
            .field("process_name", &self.process_name)
            .field("features", &self.features)
            .field("plugins", &self.plugins.iter().map(|plugin| plugin.name()).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl BusBuilder {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Sets the configuration, in place of the one that `LIGHTBUS_CONFIG` names.
    pub fn config(mut self, config: Config) -> Self {
        self.config = Some(config);
        self
    }

    /// Sets the transports to choose from, in place of those that are compiled in. To add one:
    /// `lightbus::registry().with(MyFactory)`.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// Sets the name of the service, overriding the configuration. May contain placeholders.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.service_name = Some(name.into());
        self
    }

    /// Sets the name of the process, overriding the configuration. May contain placeholders.
    pub fn process_name(mut self, name: impl Into<String>) -> Self {
        self.process_name = Some(name.into());
        self
    }

    /// Adds a plugin to those that the configuration enables.
    pub fn plugin(mut self, plugin: impl Plugin) -> Self {
        self.plugins.push(Arc::new(plugin));
        self
    }

    /// Sets the kinds of work that the process does, overriding `LIGHTBUS_FEATURES`.
    pub fn features(mut self, features: Features) -> Self {
        self.features = Some(features);
        self
    }

    /// Sets how long handlers may run on once the bus drains. Default: 15 s. Handlers that exceed it
    /// are dropped: their calls stay unanswered, their events are redelivered.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.drain_timeout = Some(limit);
        self
    }

    /// Checks the configuration and the options of its transports, without connecting. Returns what
    /// [`connect`](Self::connect) would warn about.
    ///
    /// # Errors
    ///
    /// [`Config`](lightbus_core::ErrorKind::Config), with the path of the offending key, for what
    /// `connect` would refuse.
    pub fn check(self) -> Result<Vec<Warning>> {
        let registry = self.registry.unwrap_or_else(crate::registry);
        let config = match self.config {
            Some(config) => config,
            None => Config::loader().registry(registry.clone()).load()?,
        };
        transports(&config, &registry)?;
        Ok(config.warnings(&registry))
    }

    /// Makes the process a part of a test, which observes when its calls begin and end.
    #[cfg(feature = "testing")]
    pub(crate) fn test(mut self, probe: impl super::TestProbe + 'static) -> Self {
        self.test = Some(Box::new(probe));
        self
    }

    /// Checks the configuration, connects to the broker that carries schemas, and reads them. Other
    /// brokers are connected to when they are first needed.
    ///
    /// # Errors
    ///
    /// [`Config`](lightbus_core::ErrorKind::Config) with the path of the offending key;
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if the broker does not answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, connections that were made are closed.
    pub async fn connect(self) -> Result<Bus> {
        let features = self.features.map_or_else(Features::from_env, Ok)?;
        let registry = self.registry.unwrap_or_else(crate::registry);
        let config = match self.config {
            Some(config) => config,
            None => read(registry.clone()).await?,
        };
        let names = Names::resolve(
            self.service_name.as_deref().or(config.service_name.as_deref()),
            self.process_name.as_deref().or(config.process_name.as_deref()),
        )?;
        let (apis, transport) = transports(&config, &registry)?;
        for warning in config.warnings(&registry) {
            tracing::warn!("configuration: {warning}");
        }
        let mut plugins = self.plugins;
        if config.plugins.internal_state.enabled {
            plugins.push(Arc::new(StatePlugin::new(&config.plugins)));
        }
        if config.plugins.internal_metrics.enabled {
            plugins.push(Arc::new(MetricsPlugin::default()));
        }
        let schema = Arc::new(SchemaStore::new(Arc::clone(&transport), &config.bus.schema));
        let opened = async {
            transport.open().await?;
            schema.load().await
        };
        opened.await.map_err(|error| at(&*transport, error).during("connecting to the bus"))?;
        let max_calls = config.bus.max_calls_in_flight.get() as usize;
        let inner = Arc::new_cyclic(|inner| Inner {
            config,
            names,
            apis,
            schema,
            ids: Arc::new(Ids::new()),
            calls: Semaphore::new(max_calls.min(Semaphore::MAX_PERMITS)),
            suspects: Arc::new(Semaphore::new(1)),
            nowhere: ReturnPath::new(""),
            features,
            plugins: Arc::new(Plugins::new(plugins, Weak::clone(inner))),
            drain_timeout: self.drain_timeout.unwrap_or(DRAIN_TIMEOUT),
            handled: Arc::default(),
            #[cfg(feature = "testing")]
            test: self.test,
            phase: watch::Sender::new(Phase::Running),
            state: std::sync::Mutex::new(State::default()),
            registering: tokio::sync::Mutex::default(),
        });
        let (store, phase) = (Arc::clone(&inner.schema), inner.watch());
        inner.spawn_internal("renewal of schemas", move || {
            keep_schemas(Arc::clone(&store), phase.clone())
        });
        Ok(Bus { inner })
    }
}

impl Loader {
    /// Checks the configuration and the options of its transports, without connecting, and finds every
    /// mistake. Returns what a bus would warn about.
    ///
    /// # Errors
    ///
    /// Every mistake, at most a hundred. The first is the one that [`load`](Self::load) or
    /// [`BusBuilder::check`] returns; each other is in a value that none before names. Mistakes that are
    /// only seen together with a wrong value may be left out. If a file cannot be read or parsed, that
    /// alone.
    pub fn check(self) -> Result<Vec<Warning>, Vec<Error>> {
        let registry = self.known_transports();
        let config = self.load_all(|config| transports(config, &registry).map(drop))?;
        Ok(config.warnings(&registry))
    }
}

/// Loads the configuration on a blocking thread: it may come from a web server.
async fn read(registry: Registry) -> Result<Config> {
    let read = move || Config::loader().registry(registry).load();
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Unexpected, "loading the configuration did not finish")
            .because(error))
    })
}

/// Creates all transports, and refuses combinations that cannot work.
fn transports(config: &Config, registry: &Registry) -> Result<(Apis, Arc<dyn SchemaTransport>)> {
    let made = config
        .check_features()
        .and_then(|()| check_named(config, registry))
        .and_then(|()| Apis::new(config, registry))
        .and_then(|apis| Ok((apis, schema_transport(config, registry)?)));
    made.map_err(|error| config.explain(&error, registry))
}
