//! What every command needs: the global options, the transports, and from them a configuration and a bus.

use std::{fmt, sync::Arc, time::Duration};

use lightbus::{
    Bus, BusBuilder, Error, ErrorKind, Registry, Result,
    config::{Config, Loader},
};

use crate::cli::Global;

/// How long closing a bus may wait for work in progress: the tool serves no callers.
const DRAIN: Duration = Duration::from_secs(2);

/// What a command is run with.
#[derive(Clone)]
pub(crate) struct Context {
    /// The configuration files, separated by commas. Default: those that `LIGHTBUS_CONFIG` names.
    pub(crate) config: Option<String>,
    /// Whether results and errors are printed as JSON.
    pub(crate) json: bool,
    registry: Arc<dyn Fn() -> Registry + Send + Sync>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, json, registry: _ } = self;
        f.debug_struct("Context")
            .field("config", config)
            .field("json", json)
            .finish_non_exhaustive()
    }
}

impl Context {
    pub(crate) fn new(
        global: Global,
        registry: impl Fn() -> Registry + Send + Sync + 'static,
    ) -> Self {
        let Global { config, json } = global;
        Self { config, json, registry: Arc::new(registry) }
    }

    /// The same with the options of a line of the shell: what it leaves out stays as it is.
    pub(crate) fn with(&self, global: Global) -> Self {
        Self {
            config: global.config.or_else(|| self.config.clone()),
            json: global.json || self.json,
            registry: Arc::clone(&self.registry),
        }
    }

    /// New transports, not connected. Each bus gets its own, as buses in different processes have.
    pub(crate) fn registry(&self) -> Registry {
        (self.registry)()
    }

    /// Loads the files that `--config` names, else those that `LIGHTBUS_CONFIG` names.
    pub(crate) fn loader(&self) -> Loader {
        let loader = Config::loader().registry(self.registry());
        match &self.config {
            Some(files) => loader.files([files.as_str()]),
            None => loader,
        }
    }

    /// The configuration that `--config` names, else `LIGHTBUS_CONFIG`.
    pub(crate) async fn config(&self) -> Result<Config> {
        let loader = self.loader();
        // Blocks while it reads files, and for longer with an http(s) address.
        let reading = tokio::task::spawn_blocking(move || loader.load());
        reading.await.unwrap_or_else(|error| {
            let message = "reading the configuration did not end";
            Err(Error::new(ErrorKind::Unexpected, message).because(error))
        })
    }

    /// Connects to a bus that other processes can reach: on any other, the tool is of no use.
    pub(crate) async fn bus(&self) -> Result<Bus> {
        self.bus_of("lightbus-cli").await
    }

    /// Connects as a process of this service.
    pub(crate) async fn bus_of(&self, service: &str) -> Result<Bus> {
        let bus = self.builder().await?.service_name(service).connect().await?;
        bus.require_shared()?;
        Ok(bus)
    }

    /// A builder for the configured bus, which may be one in memory.
    pub(crate) async fn builder(&self) -> Result<BusBuilder> {
        let config = self.config().await?;
        Ok(Bus::builder().config(config).registry(self.registry()).drain_timeout(DRAIN))
    }
}
