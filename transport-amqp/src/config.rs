//! The options of the transports, as they stand in the configuration.

use lightbus_core::config_types::{Seconds, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Certificates for encrypted connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The file of the certificate authority (PEM). Without it those of the system count.
    pub ca_file: Option<String>,
    /// The file of the client's own certificate (PEM).
    pub cert_file: Option<String>,
    /// The file of the key to `cert_file` (PEM, PKCS#8).
    pub key_file: Option<String>,
}

/// Where RabbitMQ is: what decides which transports share connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionConfig {
    pub(crate) url: Secret,
    pub(crate) nodes: Vec<String>,
    pub(crate) connection_name: String,
    pub(crate) heartbeat: Seconds,
    pub(crate) connect_timeout: Seconds,
    pub(crate) response_timeout: Seconds,
    pub(crate) tls: Option<TlsConfig>,
}

/// Declares the options of one kind of transport: those of the connection, then its own.
macro_rules! options {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            /// Where RabbitMQ is: `amqp://[user:password@]host[:port][/vhost]`, or `amqps://` for an
            /// encrypted connection. Default: `amqp://127.0.0.1:5672`, as `guest`.
            #[schemars(extend("format" = "uri", "writeOnly" = false, "default" = "amqp://127.0.0.1:5672"))]
            pub url: Secret,
            /// Further nodes of the same cluster, each `host:port`. User, password, vhost and
            /// encryption are those of `url`. A connection goes to any that answers.
            pub nodes: Vec<String>,
            /// What the broker shows as the connection's name. Default: `lightbus`.
            pub connection_name: String,
            /// How often the two ends show each other that they live; 0: never. Default: 10 s.
            pub heartbeat: Seconds,
            /// How long connecting may take, to all nodes together. Default: 5 s.
            pub connect_timeout: Seconds,
            /// How long an answer may take, and how long a broker that takes nothing because of an
            /// alarm is waited for. Default: 10 s.
            pub response_timeout: Seconds,
            /// Put before the names of all queues, streams and exchanges, so that several buses can
            /// share a vhost. All processes of a bus must say the same. Default: nothing.
            pub prefix: String,
            /// Certificates; needs `amqps://`.
            pub tls: Option<TlsConfig>,
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    url: Secret::new("amqp://127.0.0.1:5672"),
                    nodes: Vec::new(),
                    connection_name: "lightbus".into(),
                    heartbeat: Seconds::new(10),
                    connect_timeout: Seconds::new(5),
                    response_timeout: Seconds::new(10),
                    prefix: String::new(),
                    tls: None,
                    $($field: $default,)*
                }
            }
        }

        impl $name {
            pub(crate) fn connection(&self) -> ConnectionConfig {
                ConnectionConfig {
                    url: self.url.clone(),
                    nodes: self.nodes.clone(),
                    connection_name: self.connection_name.clone(),
                    heartbeat: self.heartbeat,
                    connect_timeout: self.connect_timeout,
                    response_timeout: self.response_timeout,
                    tls: self.tls.clone(),
                }
            }
        }
    };
}

options! {
    /// Options of the transport for calls.
    RpcConfig {
        /// What happens to a call of an API that no process has ever served. Default: `wait`.
        unknown_api: UnknownApi = UnknownApi::Wait,
        /// How long a queue of calls is kept that nobody uses. All processes must say the same.
        /// Default: 86,400 s (a day).
        queue_expires: Seconds = Seconds::new(86_400),
        /// How many calls of an API may wait; more are refused. All processes must say the same.
        /// Default: 100,000.
        max_queue_length: u32 = 100_000,
        /// By how much the clocks of two machines may differ: a call counts as expired at its
        /// caller's moment plus this, whatever its time left says. Default: 30 s.
        clock_tolerance: Seconds = Seconds::new(30),
    }
}

options! {
    /// Options of the transport for results.
    ResultConfig {
        /// Have the broker confirm each result. Without, a result counts as sent when it has been
        /// handed to the connection; one that is lost with it ends its call with the time limit,
        /// as a lost worker would. Costs a fifth of the rate. Default: no.
        confirm: bool = false,
    }
}

options! {
    /// Options of the transport for events.
    EventConfig {
        /// The topic exchange to which events are published. Default: `lightbus.events`.
        exchange: String = "lightbus.events".into(),
        /// What kind of queue a listener has. All processes of it must say the same.
        queue_type: QueueType = QueueType::Quorum,
        /// How often an event may go back to a quorum queue, because its process died or closed,
        /// before the broker sets it aside. All processes of a listener must say the same.
        /// Default: 100.
        delivery_limit: u32 = 100,
        /// How many dead letters a listener keeps; the oldest go first. Default: 10,000.
        dead_letter_limit: u32 = 10_000,
        /// Only one process of a listener gets events at a time, the next when it is gone: so all
        /// stay in order. All processes of it must say the same. Default: no.
        single_active_consumer: bool = false,
        /// Keep past events in a stream for each API: then `history` answers, and a new listener may
        /// start before now. All who fire must say the same. Default: absent, nothing is kept.
        history: Option<HistoryConfig> = None,
    }
}

options! {
    /// Options of the transport for schemas.
    SchemaConfig {
        /// The stream that holds the schemas. Default: `lightbus.schemas`.
        stream: String = "lightbus.schemas".into(),
    }
}

/// What happens to a call of an API that no process has ever served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnknownApi {
    /// It waits for a worker, until its deadline.
    #[default]
    Wait,
    /// It fails at once, as [`Unknown`](lightbus_core::ErrorKind::Unknown).
    Refuse,
}

/// Kinds of queues for events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// On several nodes, and on disk when it is confirmed.
    #[default]
    Quorum,
    /// On one node.
    Classic,
}

/// What of the past is kept.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// How long events are kept, at least. Default: 604,800 s (seven days).
    pub max_age: Seconds,
    /// About how many bytes of events are kept for each API. Default: 1 GiB.
    pub max_bytes: u64,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { max_age: Seconds::new(604_800), max_bytes: 1 << 30 }
    }
}
