//! The keys of the configuration, their types and defaults.
//!
//! The JSON Schema is generated from these types: editors show the documentation of the fields.

use std::{borrow::Cow, collections::BTreeMap, num::NonZeroU32, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer, de::Error as _};

use super::{PluginsConfig, Selector, Sources};
use crate::bus::RetryPolicy;

/// The configuration of a process.
///
/// Fields may be changed after loading. [`settings`](Self::settings) and [`warnings`](Self::warnings)
/// still describe what was loaded.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(title = "Configuration of lightbus")]
#[non_exhaustive]
pub struct Config {
    /// The name of the service, shared by its processes: the first part of each consumer group's name.
    /// Keep it across restarts.
    /// Placeholders: `{hostname}`, `{pid}`, `{random4}`, `{random8}`, `{random16}`, `{friendly}`.
    #[schemars(extend("default" = "{friendly}"))]
    pub service_name: Option<String>,
    /// The name of the process: the consumer in its groups. Takes the same placeholders.
    #[schemars(extend("default" = "{random4}"))]
    pub process_name: Option<String>,
    /// Settings of the bus as a whole.
    pub bus: BusConfig,
    /// Settings by API. `default` applies to all APIs without an entry.
    pub apis: BTreeMap<String, ApiConfig>,
    /// Settings by the name of a listener, for what the program does not say in code. `default` is for
    /// all listeners that have no entry of their own. Only Rust knows this key.
    #[schemars(extend("x-rust-only" = true))]
    pub listeners: BTreeMap<String, ListenerConfig>,
    /// Settings of plugins, by name.
    pub plugins: PluginsConfig,
    #[serde(skip)]
    pub(crate) sources: Sources,
}

/// Settings of the bus as a whole.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct BusConfig {
    /// The least severe level to log, in programs that let lightbus set up logging.
    pub log_level: LogLevel,
    /// How many calls of this process may wait for results concurrently: 32,768. Further calls queue,
    /// within their own timeout. Not known to Python.
    #[schemars(extend("x-rust-only" = true))]
    pub max_calls_in_flight: NonZeroU32,
    /// How many calls of one API run concurrently in this process, unless the program sets it in code:
    /// 256. Further calls stay with the broker. Not known to Python.
    #[schemars(extend("x-rust-only" = true))]
    pub max_calls_at_work: NonZeroU32,
    /// Settings of the exchange of schemas.
    pub schema: SchemaConfig,
}

impl Default for BusConfig {
    fn default() -> Self {
        const fn at_most(number: u32) -> NonZeroU32 {
            NonZeroU32::MIN.saturating_add(number - 1)
        }
        Self {
            log_level: LogLevel::default(),
            max_calls_in_flight: at_most(32_768),
            max_calls_at_work: at_most(256),
            schema: SchemaConfig::default(),
        }
    }
}

/// A log level, by Python's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum LogLevel {
    Debug,
    #[default]
    Info,
    Warning,
    Error,
    Critical,
}

/// Settings of the exchange of schemas over the bus.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SchemaConfig {
    /// How long a schema stays on the bus unless it is renewed, in seconds: 60. Schemas are renewed and
    /// read after four fifths of it.
    #[serde(deserialize_with = "seconds", serialize_with = "in_seconds")]
    #[schemars(schema_with = "seconds_schema")]
    pub ttl: Duration,
    /// Whether saved schemas are indented: true.
    pub human_readable: bool,
    /// What happens if this process is about to publish a schema that breaks users of the one on the
    /// bus: `warn`. Not known to Python.
    #[schemars(extend("x-rust-only" = true))]
    pub on_incompatible: OnIncompatible,
    /// The transport for schemas.
    #[schemars(schema_with = "selector_schema")]
    pub transport: Option<Selector>,
}

impl Default for SchemaConfig {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            human_readable: true,
            on_incompatible: OnIncompatible::default(),
            transport: None,
        }
    }
}

/// What happens at startup if the schema of an API breaks users of the one on the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[non_exhaustive]
pub enum OnIncompatible {
    /// Nothing. The schemas are not compared.
    Ignore,
    /// Each breaking change is logged as a warning.
    #[default]
    Warn,
    /// Serving or registering the API fails, and nothing is published.
    Refuse,
}

/// What happens at startup if a transport cannot do what an API requires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
#[non_exhaustive]
pub enum OnMissing {
    /// Serving or registering the API fails.
    #[default]
    Refuse,
    /// A warning is logged.
    Warn,
}

/// Settings of an API. Of `default`, an entry inherits only the transports that it omits, as in Python.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ApiConfig {
    /// How long a caller waits for a result, in seconds: 5. The call expires at the same time.
    #[serde(deserialize_with = "seconds", serialize_with = "in_seconds")]
    #[schemars(schema_with = "seconds_schema")]
    pub rpc_timeout: Duration,
    /// How long a procedure may run in this process, in seconds: until its caller's deadline. Then it is
    /// cut off. Not known to Python.
    #[serde(deserialize_with = "some_seconds")]
    #[schemars(schema_with = "some_seconds_schema", extend("x-rust-only" = true))]
    pub procedure_timeout: Option<Duration>,
    /// How long firing an event may take, in seconds: 5.
    #[serde(deserialize_with = "seconds", serialize_with = "in_seconds")]
    #[schemars(schema_with = "seconds_schema")]
    pub event_fire_timeout: Duration,
    /// How long starting a listener may take, in seconds: 5. (Python's default is 1, and is not used.)
    #[serde(deserialize_with = "seconds", serialize_with = "in_seconds")]
    #[schemars(schema_with = "seconds_schema")]
    pub event_listener_setup_timeout: Duration,
    /// Whether messages are validated against schemas: true, if the feature `validation` is on.
    #[schemars(extend("default" = cfg!(feature = "validation")))]
    pub validate: Validate,
    /// Whether it is an error if there is no schema to validate against: false.
    pub strict_validation: bool,
    /// The size limit, in bytes, for the arguments of a call or an event in total, and for a result:
    /// 16,777,216 (16 MiB). Larger messages are neither sent nor passed to a procedure or a handler. Not
    /// known to Python.
    #[schemars(extend("x-rust-only" = true))]
    pub max_message_size: u64,
    /// What happens at startup if the configured transport cannot do what the API requires: `refuse`. Not
    /// known to Python.
    #[schemars(extend("x-rust-only" = true))]
    pub on_missing: OnMissing,
    /// Accepted for compatibility with Python. Typed code always decodes into its types.
    #[schemars(extend("x-without-effect" = "typed code decodes into its types, and accepts what they accept"))]
    pub cast_values: bool,
    /// The transport for calls.
    #[schemars(schema_with = "selector_schema")]
    pub rpc_transport: Option<Selector>,
    /// The transport for results.
    #[schemars(schema_with = "selector_schema")]
    pub result_transport: Option<Selector>,
    /// The transport for events.
    #[schemars(schema_with = "selector_schema")]
    pub event_transport: Option<Selector>,
}

impl Default for ApiConfig {
    fn default() -> Self {
        let five = Duration::from_secs(5);
        Self {
            rpc_timeout: five,
            procedure_timeout: None,
            event_fire_timeout: five,
            event_listener_setup_timeout: five,
            validate: Validate::default(),
            strict_validation: false,
            max_message_size: 16 << 20,
            on_missing: OnMissing::default(),
            cast_values: true,
            rpc_transport: None,
            result_transport: None,
            event_transport: None,
        }
    }
}

/// The settings of a listener. An entry inherits nothing from `default`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerConfig {
    /// The most events that a process holds for this listener, those at work included: 512.
    pub prefetch: Option<NonZeroU32>,
    /// How long the handler may take, in seconds: no limit.
    #[serde(deserialize_with = "some_seconds")]
    #[schemars(schema_with = "some_seconds_schema")]
    pub timeout: Option<Duration>,
    /// How failed events are retried.
    pub retry: RetryConfig,
}

/// How failed events are retried, as [`RetryPolicy`] says.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// All tries together: 5.
    pub attempts: NonZeroU32,
    /// The wait after the first failure, in seconds: 0.2. Doubled with each further one.
    #[serde(deserialize_with = "seconds")]
    #[schemars(schema_with = "seconds_schema")]
    pub first_wait: Duration,
    /// The longest wait, in seconds: 10.
    #[serde(deserialize_with = "seconds")]
    #[schemars(schema_with = "seconds_schema")]
    pub longest_wait: Duration,
    /// How often an event is delivered whose process ends while it is handled: 5.
    pub deliveries: NonZeroU32,
    /// Whether the listener waits while different events fail one after the other: true.
    pub breaker: bool,
    /// How long an event may keep failing meanwhile before it is dead-lettered, in seconds: 600.
    #[serde(deserialize_with = "seconds")]
    #[schemars(schema_with = "seconds_schema")]
    pub longest_outage: Duration,
}

impl Default for RetryConfig {
    fn default() -> Self {
        let usual = RetryPolicy::default();
        let count = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self {
            attempts: count(usual.attempts),
            first_wait: usual.first_wait,
            longest_wait: usual.longest_wait,
            deliveries: count(usual.deliveries),
            breaker: usual.breaker,
            longest_outage: usual.longest_outage,
        }
    }
}

impl ListenerConfig {
    pub(crate) fn prefetch(&self) -> Option<usize> {
        self.prefetch.map(|events| usize::try_from(events.get()).unwrap_or(usize::MAX))
    }

    pub(crate) fn policy(&self) -> RetryPolicy {
        let RetryConfig { attempts, first_wait, longest_wait, deliveries, breaker, longest_outage } =
            self.retry;
        RetryPolicy {
            attempts: attempts.get(),
            first_wait,
            longest_wait,
            deliveries: deliveries.get(),
            breaker,
            longest_outage,
        }
    }
}

impl Config {
    /// The settings of a listener: those of its name, or of `default`.
    pub(crate) fn listener(&self, name: &str) -> ListenerConfig {
        let settings = self.listeners.get(name).or_else(|| self.listeners.get("default"));
        settings.cloned().unwrap_or_default()
    }
}

/// The directions in which messages are validated against schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validate {
    /// Messages that this process sends.
    pub outgoing: bool,
    /// Messages that this process receives.
    pub incoming: bool,
}

impl Default for Validate {
    fn default() -> Self {
        // Without the feature, the program has no validator.
        let checks = cfg!(feature = "validation");
        Self { outgoing: checks, incoming: checks }
    }
}

/// The form with both directions.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
struct Directions {
    /// Messages that this process sends.
    outgoing: bool,
    /// Messages that this process receives.
    incoming: bool,
}

impl Default for Directions {
    fn default() -> Self {
        let Validate { outgoing, incoming } = Validate::default();
        Self { outgoing, incoming }
    }
}

impl<'de> Deserialize<'de> for Validate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Bool(on) => Ok(Self { outgoing: on, incoming: on }),
            value @ serde_json::Value::Object(_) => {
                let both: Directions = serde_json::from_value(value).map_err(D::Error::custom)?;
                Ok(Self { outgoing: both.outgoing, incoming: both.incoming })
            }
            _ => Err(D::Error::custom(
                "expected true, false, or a mapping of `outgoing` and `incoming` to true or false",
            )),
        }
    }
}

impl JsonSchema for Validate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Validate".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let both = generator.subschema_for::<Directions>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, both] })
    }
}

/// More than a century counts as a century.
pub(super) fn seconds<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Duration, D::Error> {
    let seconds = f64::deserialize(deserializer)?;
    lightbus_core::time::seconds(seconds)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| D::Error::custom("expected a number of seconds above zero"))
}

fn some_seconds<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    struct Seconds(#[serde(deserialize_with = "seconds")] Duration);
    Ok(Option::<Seconds>::deserialize(deserializer)?.map(|Seconds(duration)| duration))
}

pub(super) fn in_seconds<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration.subsec_nanos() {
        0 => serializer.serialize_u64(duration.as_secs()),
        _ => serializer.serialize_f64(duration.as_secs_f64()),
    }
}

pub(super) fn seconds_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "number", "exclusiveMinimum": 0 })
}

fn some_seconds_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["number", "null"], "exclusiveMinimum": 0 })
}

/// A placeholder for the transports of a registry.
fn selector_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "null"] })
}
