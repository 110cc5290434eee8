//! From the name of a transport in the configuration to the transport.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::de::DeserializeOwned;

use crate::{
    Error, ErrorKind, Result,
    transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport},
};

/// A part of the configuration, with the path that leads to it.
#[derive(Clone, PartialEq)]
pub struct ConfigSection {
    path: String,
    value: serde_json::Value,
}

impl ConfigSection {
    /// The value at `path`, such as `apis.default.rpc_transport.redis`. A null counts as empty.
    #[must_use]
    pub fn new(path: impl Into<String>, value: serde_json::Value) -> Self {
        let value = match value {
            serde_json::Value::Null => serde_json::Value::Object(serde_json::Map::new()),
            value => value,
        };
        Self { path: path.into(), value }
    }

    /// No options at all.
    #[must_use]
    pub fn empty(path: impl Into<String>) -> Self {
        Self::new(path, serde_json::Value::Null)
    }

    /// The path that leads here.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value, as it stands in the configuration: it may hold secrets.
    #[must_use]
    pub fn value(&self) -> &serde_json::Value {
        &self.value
    }

    /// Reads the options of a transport. Its type should refuse unknown fields.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the path.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        let mut track = serde_path_to_error::Track::new();
        let deserializer = serde_path_to_error::Deserializer::new(&self.value, &mut track);
        T::deserialize(deserializer).map_err(|error| {
            let inner = track.path().to_string();
            let path =
                if inner == "." { self.path.clone() } else { format!("{}.{inner}", self.path) };
            Error::config(path, error.to_string())
        })
    }
}

impl fmt::Debug for ConfigSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value may hold passwords.
        f.debug_struct("ConfigSection").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What a transport carries: the four places in a configuration where one is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TransportKind {
    /// Calls: `rpc_transport`.
    Rpc,
    /// Results: `result_transport`.
    Result,
    /// Events: `event_transport`.
    Event,
    /// Schemas: `bus.schema.transport`.
    Schema,
}

/// Makes the transports of one kind of broker.
///
/// Making one is synchronous and reaches for nothing: a configuration can be checked without a
/// broker. Connections come with [`Transport::open`](crate::transport::Transport::open). Transports
/// with equal options should share their connections.
pub trait TransportFactory: fmt::Debug + Send + Sync + 'static {
    /// The name in the configuration.
    fn name(&self) -> &'static str;

    /// Describes the options of a kind of transport as JSON Schema: draft 7, types written out where
    /// they are used. `None`, the default, says nothing about them: everything may stand there, and
    /// editors, `config show` and warnings know no more.
    ///
    /// Beside the usual keywords these count:
    ///
    /// - `writeOnly: true`: a secret, never shown.
    /// - `format: "uri"`: an address, shown without its password.
    /// - `x-without-effect: "…"`: accepted, and not heeded; this reason is reported to whoever sets it.
    /// - `x-rust-only: true`: Python's Lightbus refuses a file that has it.
    fn options(&self, _kind: TransportKind) -> Option<serde_json::Value> {
        None
    }

    /// Makes a transport for calls.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] with the path of what is wrong. So for all of these.
    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        Err(not_offered(self.name(), "rpc_transport", section))
    }

    /// Makes a transport for results.
    ///
    /// # Errors
    ///
    /// As [`rpc`](Self::rpc).
    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        Err(not_offered(self.name(), "result_transport", section))
    }

    /// Makes a transport for events.
    ///
    /// # Errors
    ///
    /// As [`rpc`](Self::rpc).
    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        Err(not_offered(self.name(), "event_transport", section))
    }

    /// Makes a transport for schemas.
    ///
    /// # Errors
    ///
    /// As [`rpc`](Self::rpc).
    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        Err(not_offered(self.name(), "schema transport", section))
    }
}

fn not_offered(name: &str, kind: &str, section: &ConfigSection) -> Error {
    Error::config(section.path(), format!("the transport `{name}` cannot be a {kind}"))
}

/// The transports that a program knows, by name: a value, not a global.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    factories: BTreeMap<&'static str, Arc<dyn TransportFactory>>,
}

impl Registry {
    /// Knows no transport.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a transport, in the place of one of the same name.
    #[must_use]
    pub fn with(mut self, factory: impl TransportFactory) -> Self {
        self.factories.insert(factory.name(), Arc::new(factory));
        self
    }

    /// The names that are known, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.factories.keys().copied()
    }

    /// The transport of this name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] that lists the known names.
    pub fn get(&self, name: &str) -> Result<&dyn TransportFactory> {
        self.factories.get(name).map(|factory| &**factory).ok_or_else(|| {
            let known: Vec<_> = self.names().collect();
            Error::new(ErrorKind::Config, format!("there is no transport `{name}`"))
                .with("known", known.join(", "))
        })
    }
}
