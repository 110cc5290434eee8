//! The configuration: Python's `lightbus.yaml`, and what Rust adds.
//!
//! A file says which transport carries which API. What is left out has its default; what is not
//! known is refused, with the nearest name that is. With no file at all, everything stays in
//! memory.

mod load;
mod names;
mod selector;
mod suggest;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, de::Error as _};

pub use names::Names;
pub use selector::Selector;
pub(crate) use suggest::{nearest, with_nearest_key};

/// The settings of a process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Groups processes: the first half of each consumer group's name. May hold placeholders:
    /// `{hostname}`, `{pid}`, `{random4}`, `{random8}`, `{random16}`, `{friendly}`.
    pub service_name: Option<String>,
    /// Names this process: the consumer in its groups. The same placeholders.
    pub process_name: Option<String>,
    /// What concerns the bus as a whole.
    pub bus: BusConfig,
    /// Settings by API. `default` is for all APIs that have no entry of their own.
    pub apis: BTreeMap<String, ApiConfig>,
    /// Settings of plugins.
    pub plugins: BTreeMap<String, serde_json::Value>,
    #[serde(skip)]
    pub(crate) source: Source,
}

/// Where the configuration came from.
#[derive(Clone, Debug, Default)]
pub(crate) enum Source {
    /// Nothing was configured: all in memory.
    #[default]
    Nothing,
    /// Given by the program.
    Code,
    /// Read from these files, each laid over those before.
    Files(Vec<String>),
}

/// What concerns the bus as a whole.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusConfig {
    /// The least severe level that is logged by programs that let lightbus set up their log.
    pub log_level: LogLevel,
    /// The exchange of schemas.
    pub schema: SchemaConfig,
}

/// A severity, by Python's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warning,
    Error,
    Critical,
}

/// The exchange of schemas over the bus.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchemaConfig {
    /// How long a schema lives on the bus unless it is renewed, in seconds: 60. Renewed and read
    /// again after four fifths of it.
    #[serde(deserialize_with = "seconds")]
    pub ttl: Duration,
    /// Whether a dump of schemas is indented: true.
    pub human_readable: bool,
    /// What carries schemas.
    pub transport: Option<Selector>,
}

impl Default for SchemaConfig {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(60), human_readable: true, transport: None }
    }
}

/// The settings of an API. An entry inherits nothing from `default` but the transports that it
/// leaves out, as in Python.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiConfig {
    /// How long a caller waits for a result, in seconds: 5. Also when the call expires.
    #[serde(deserialize_with = "seconds")]
    pub rpc_timeout: Duration,
    /// How long firing an event may take, in seconds: 5.
    #[serde(deserialize_with = "seconds")]
    pub event_fire_timeout: Duration,
    /// How long setting up a listener may take, in seconds: 1 in Python, where nothing reads it. Here 5.
    #[serde(deserialize_with = "seconds")]
    pub event_listener_setup_timeout: Duration,
    /// What is checked against schemas: everything.
    pub validate: Validate,
    /// Whether it is an error if there is no schema to check with: false.
    pub strict_validation: bool,
    /// Accepted for Python's sake: typed code always decodes into its types.
    pub cast_values: bool,
    /// What carries calls.
    pub rpc_transport: Option<Selector>,
    /// What carries results.
    pub result_transport: Option<Selector>,
    /// What carries events.
    pub event_transport: Option<Selector>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        let five = Duration::from_secs(5);
        Self {
            rpc_timeout: five,
            event_fire_timeout: five,
            event_listener_setup_timeout: five,
            validate: Validate::default(),
            strict_validation: false,
            cast_values: true,
            rpc_transport: None,
            result_transport: None,
            event_transport: None,
        }
    }
}

/// In which directions messages are checked against schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validate {
    /// What this process sends.
    pub outgoing: bool,
    /// What this process receives.
    pub incoming: bool,
}

impl Default for Validate {
    fn default() -> Self {
        Self { outgoing: true, incoming: true }
    }
}

impl<'de> Deserialize<'de> for Validate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Both {
            #[serde(default = "yes")]
            outgoing: bool,
            #[serde(default = "yes")]
            incoming: bool,
        }
        fn yes() -> bool {
            true
        }
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(on) => Ok(Self { outgoing: on, incoming: on }),
            value @ serde_json::Value::Object(_) => {
                let both: Both = serde_json::from_value(value).map_err(D::Error::custom)?;
                Ok(Self { outgoing: both.outgoing, incoming: both.incoming })
            }
            _ => Err(D::Error::custom(
                "expected true, false, or a mapping of `outgoing` and `incoming` to true or false",
            )),
        }
    }
}

fn seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| D::Error::custom("expected a number of seconds above zero"))
}

impl Config {
    /// The settings of an API: its own, or those of `default`; with `default`'s transports where it
    /// names none.
    pub(crate) fn api(&self, name: &str) -> ApiConfig {
        let default = self.apis.get("default");
        let Some(own) = self.apis.get(name) else {
            return default.cloned().unwrap_or_default();
        };
        let mut config = own.clone();
        if let Some(default) = default {
            for (own, default) in [
                (&mut config.rpc_transport, &default.rpc_transport),
                (&mut config.result_transport, &default.result_transport),
                (&mut config.event_transport, &default.event_transport),
            ] {
                if own.is_none() {
                    own.clone_from(default);
                }
            }
        }
        config
    }

    /// What carries a kind of message that the configuration says nothing of. Without any
    /// configuration it is memory. With one it is Redis at its usual address, as in Python; but a
    /// file that names another transport and no Redis means that other one.
    pub(crate) fn fallback(&self) -> Selector {
        let memory = || Selector::new("memory");
        if matches!(self.source, Source::Nothing) {
            return memory();
        }
        let default = self.apis.get("default");
        let named = default.into_iter().flat_map(|api| {
            [&api.rpc_transport, &api.result_transport, &api.event_transport].into_iter().flatten()
        });
        let mut named = named.chain(&self.bus.schema.transport).peekable();
        match named.peek().copied() {
            Some(first) if named.all(|selector| selector.name() != "redis") => first.clone(),
            None if matches!(self.source, Source::Code) => memory(),
            _ => Selector::new("redis"),
        }
    }

    /// Where it came from, for people.
    pub(crate) fn origin(&self) -> String {
        match &self.source {
            Source::Nothing => "none, all in memory".to_owned(),
            Source::Code => "given by the program".to_owned(),
            Source::Files(files) => files.join(" + "),
        }
    }
}
