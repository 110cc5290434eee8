//! The options of the transports, as the configuration has them.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use lightbus_core::config_types::{Seconds, Secret};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

/// Some brokers of the cluster, through which the others are found: `host:port,host:port`, or a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Brokers(String);

impl Brokers {
    /// These addresses, separated by commas.
    #[must_use]
    pub fn new(brokers: impl Into<String>) -> Self {
        Self(brokers.into())
    }

    /// Returns the addresses, separated by commas.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl JsonSchema for Brokers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Brokers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string" },
            { "type": "array", "items": { "type": "string" } },
        ] })
    }
}

impl<'de> Deserialize<'de> for Brokers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "`host:port,host:port`, or a list of `host:port`")]
        enum Either {
            Text(String),
            List(Vec<String>),
        }
        let text = match Either::deserialize(deserializer)? {
            Either::Text(text) => text,
            Either::List(list) => list.join(","),
        };
        if text.split(',').any(|broker| broker.trim().is_empty()) {
            return Err(de::Error::custom("a broker's address is empty"));
        }
        Ok(Self(text))
    }
}

/// The value of a setting of librdkafka or of a topic: a string, a number, or a boolean.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Setting(Secret);

impl Setting {
    /// This value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(Secret::new(value))
    }

    pub(crate) fn reveal(&self) -> &str {
        self.0.reveal()
    }
}

impl JsonSchema for Setting {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Setting".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Any of them may be a secret.
        json_schema!({ "type": ["string", "number", "boolean"], "writeOnly": true })
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => Ok(Self::new(text)),
            serde_json::Value::Number(number) => Ok(Self::new(number.to_string())),
            serde_json::Value::Bool(is) => Ok(Self::new(is.to_string())),
            _ => Err(de::Error::custom("a setting is a string, a number, or a boolean")),
        }
    }
}

/// Encrypted connections. Needs the cargo feature `tls`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The file of the certificate authority (PEM). Default: the system's authorities.
    pub ca_file: Option<String>,
    /// The file of the client's own certificate (PEM).
    pub cert_file: Option<String>,
    /// The file of the private key of `cert_file` (PEM).
    pub key_file: Option<String>,
    /// The password of `key_file`.
    pub key_password: Option<Secret>,
}

/// Authentication by SASL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaslConfig {
    /// The mechanism. Default: `PLAIN`.
    #[serde(default)]
    pub mechanism: SaslMechanism,
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// The SASL mechanisms that are built in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
pub enum SaslMechanism {
    /// Sends the password in clear text: use it with `tls`.
    #[default]
    #[serde(rename = "PLAIN")]
    Plain,
    /// Proves that the client knows the password. Needs the cargo feature `tls`.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// Proves that the client knows the password. Needs the cargo feature `tls`.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// The options of the connection. Transports share a client if these are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionConfig {
    pub(crate) brokers: Brokers,
    pub(crate) client_id: String,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) sasl: Option<SaslConfig>,
    pub(crate) timeout: Duration,
    pub(crate) send_timeout: Duration,
    pub(crate) librdkafka: BTreeMap<String, Setting>,
}

/// The names of topics, and how to create them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopicConfig {
    pub(crate) prefix: String,
    pub(crate) create: bool,
    pub(crate) partitions: u32,
    pub(crate) replication: Option<u16>,
    pub(crate) min_insync_replicas: Option<u16>,
    pub(crate) settings: BTreeMap<String, Setting>,
}

/// Declares the options of one kind of transport: the connection's and the topics', then its own.
macro_rules! options {
    ($(#[$meta:meta])* $name:ident, $partitions:expr, { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            /// Some brokers of the cluster: `host:port,host:port`, or a list.
            /// Default: `127.0.0.1:9092`.
            #[schemars(extend("default" = "127.0.0.1:9092"))]
            pub brokers: Brokers,
            /// The client id in Kafka's logs and quotas. Default: `lightbus`.
            pub client_id: String,
            /// Encrypts connections. Needs the cargo feature `tls`.
            pub tls: Option<TlsConfig>,
            /// User and password.
            pub sasl: Option<SaslConfig>,
            /// How long connecting and a request may take. Default: 5 s.
            pub timeout: Seconds,
            /// How long a record may wait for its confirmation. Default: 10 s.
            pub send_timeout: Seconds,
            /// The prefix of the names of all topics and groups. Default: none.
            pub prefix: String,
            /// Whether to create topics that do not exist. Default: yes.
            pub create_topics: bool,
            #[doc = concat!("The number of partitions of a topic that is created. Default: ", stringify!($partitions), ".")]
            pub partitions: u32,
            /// The replicas of a topic that is created. Default: the broker's.
            pub replication: Option<u16>,
            /// How many replicas must have a record before it is confirmed, in a topic that is created.
            /// Default: the broker's.
            pub min_insync_replicas: Option<u16>,
            /// Further settings of a topic that is created, by their Kafka names.
            pub topic_settings: BTreeMap<String, Setting>,
            /// Further settings of the client, by their librdkafka names. A setting that would break a
            /// guarantee is refused.
            pub librdkafka: BTreeMap<String, Setting>,
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    brokers: Brokers::new("127.0.0.1:9092"),
                    client_id: "lightbus".to_owned(),
                    tls: None,
                    sasl: None,
                    timeout: Seconds::new(5),
                    send_timeout: Seconds::new(10),
                    prefix: String::new(),
                    create_topics: true,
                    partitions: $partitions,
                    replication: None,
                    min_insync_replicas: None,
                    topic_settings: BTreeMap::new(),
                    librdkafka: BTreeMap::new(),
                    $($field: $default,)*
                }
            }
        }

        impl $name {
            pub(crate) fn connection(&self) -> ConnectionConfig {
                ConnectionConfig {
                    brokers: self.brokers.clone(),
                    client_id: self.client_id.clone(),
                    tls: self.tls.clone(),
                    sasl: self.sasl.clone(),
                    timeout: self.timeout.0.max(Duration::from_millis(100)),
                    send_timeout: self.send_timeout.0.max(Duration::from_millis(100)),
                    librdkafka: self.librdkafka.clone(),
                }
            }

            pub(crate) fn topics(&self) -> TopicConfig {
                TopicConfig {
                    prefix: self.prefix.clone(),
                    create: self.create_topics,
                    partitions: self.partitions.max(1),
                    replication: self.replication,
                    min_insync_replicas: self.min_insync_replicas,
                    settings: self.topic_settings.clone(),
                }
            }
        }
    };
}

options! {
    /// Options of the transport for calls.
    RpcConfig, 16, {
        /// The most calls to take at once. Default: what the bus asks for.
        batch_size: Option<usize> = None,
        /// The time limit of a call that carries no deadline. Default: 5 s.
        rpc_timeout: Seconds = Seconds::new(5),
        /// How long Kafka keeps a call. Default: 3600 s.
        retention: Seconds = Seconds::new(3600),
        /// How long a worker may be silent before the group considers it dead. Default: 10 s.
        session_timeout: Seconds = Seconds::new(10),
        /// After how long a worker whose handlers are all busy leaves its partitions to other workers,
        /// until a handler ends; 0: never. Default: 1 s.
        release_after: Seconds = Seconds::new(1),
        /// How long a fetch waits at the broker for records. Default: 0.1 s.
        fetch_wait: Seconds = Seconds(Duration::from_millis(100)),
    }
}

options! {
    /// Options of the transport for results.
    ResultConfig, 16, {
        /// How long Kafka keeps a result. Default: 60 s.
        result_ttl: Seconds = Seconds::new(60),
        /// How long a fetch waits at the broker for records. Default: 0.5 s.
        fetch_wait: Seconds = Seconds(Duration::from_millis(500)),
    }
}

options! {
    /// Options of the transport for events.
    EventConfig, 8, {
        /// The most events to take at once. Default: 100.
        batch_size: usize = 100,
        /// Whether all events of an API share a topic. All processes must agree.
        topic_use: TopicUse = TopicUse::PerApi,
        /// How long Kafka keeps an event; `null`: as long as the broker is set to. Default: 7 days.
        retention: Option<Seconds> = Some(Seconds::new(7 * 24 * 3600)),
        /// How long Kafka keeps a dead letter; `null`: for ever. Default: for ever.
        dead_letter_retention: Option<Seconds> = None,
        /// How long a process may be silent before the group considers it dead. Default: 10 s.
        session_timeout: Seconds = Seconds::new(10),
        /// How long to wait for handlers of events in partitions that are revoked. Events that they still
        /// hold then are redelivered to the next owner. Default: 15 s.
        revoke_timeout: Seconds = Seconds::new(15),
        /// How long a fetch waits at the broker for records. Default: 0.1 s.
        fetch_wait: Seconds = Seconds(Duration::from_millis(100)),
        /// Replaces the service's name in the names of consumer groups.
        service_name: Option<String> = None,
    }
}

options! {
    /// Options of the transport for schemas. Their topic has one partition whatever `partitions` says,
    /// because its order decides which schema is the newest.
    SchemaConfig, 1, {
        /// How long Kafka keeps a schema that is neither renewed nor replaced: longer than any schema's
        /// time to live. Default: 7 days.
        retention: Seconds = Seconds::new(7 * 24 * 3600),
    }
}

/// Which events share a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TopicUse {
    /// All events of an API share a topic. Events of one key stay in order.
    #[default]
    PerApi,
    /// Each event has its own topic.
    PerEvent,
}
