//! The options of the transports, as the configuration has them.

use lightbus_core::config_types::{Seconds, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Certificates for encrypted connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The file of the certificate authority (PEM). Default: the system's authorities.
    pub ca_file: Option<String>,
    /// The file of the client's own certificate (PEM).
    pub cert_file: Option<String>,
    /// The file of the private key of `cert_file` (PEM, PKCS#8).
    pub key_file: Option<String>,
}

/// The options of the connection. Transports share connections if these are equal.
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

/// Declares the options of one kind of transport: the connection's, then its own.
macro_rules! options {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            /// The address of RabbitMQ: `amqp://[user:password@]host[:port][/vhost]`, or `amqps://` for an
            /// encrypted connection. Default: `amqp://127.0.0.1:5672`, as `guest`.
            #[schemars(extend("format" = "uri", "writeOnly" = false, "default" = "amqp://127.0.0.1:5672"))]
            pub url: Secret,
            /// Further nodes of the same cluster, each `host:port`. User, password, vhost and
            /// encryption are taken from `url`. A connection is opened to any node that answers.
            pub nodes: Vec<String>,
            /// The connection's name in the broker. Default: `lightbus`.
            pub connection_name: String,
            /// How often both ends send a heartbeat; 0: never. Default: 10 s.
            pub heartbeat: Seconds,
            /// How long connecting may take, to all nodes together. Default: 5 s.
            pub connect_timeout: Seconds,
            /// How long an answer may take, and how long to wait for the end of a resource alarm.
            /// Default: 10 s.
            pub response_timeout: Seconds,
            /// The prefix of the names of all queues, streams and exchanges, so that several buses can
            /// share a vhost. All processes of a bus must agree. Default: none.
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
        /// After how long without use the broker deletes a queue of calls. All processes must agree.
        /// Default: 86,400 s (a day).
        queue_expires: Seconds = Seconds::new(86_400),
        /// The most waiting calls of an API; further calls are refused. All processes must agree.
        /// Default: 100,000.
        max_queue_length: u32 = 100_000,
        /// How far the clocks of two machines may differ: a call expires this long after its deadline by
        /// the caller's clock, whatever its time left says. Default: 30 s.
        clock_tolerance: Seconds = Seconds::new(30),
    }
}

options! {
    /// Options of the transport for results.
    ResultConfig {
        /// Whether the broker confirms each result. Otherwise a result counts as sent when it is handed
        /// to the connection; if the connection is lost, its call times out. Costs a fifth of the
        /// throughput. Default: no.
        confirm: bool = false,
    }
}

options! {
    /// Options of the transport for events.
    EventConfig {
        /// The topic exchange to which events are published. Default: `lightbus.events`.
        exchange: String = "lightbus.events".into(),
        /// The type of a listener's queue. All its processes must agree.
        queue_type: QueueType = QueueType::Quorum,
        /// How often an event may return to a quorum queue, because its process died or closed, before
        /// the broker dead-letters it. All processes of a listener must agree. Default: 100.
        delivery_limit: u32 = 100,
        /// How many dead letters a listener keeps; the oldest are removed first. Default: 10,000.
        dead_letter_limit: u32 = 10_000,
        /// Whether only one process of a listener receives events, the next when it ends, so that all
        /// events stay in order. All its processes must agree. Default: no.
        single_active_consumer: bool = false,
        /// Keeps past events in a stream for each API, for `history` and for listeners that start before
        /// now. All processes that fire must agree. Default: absent, and no event is kept.
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
    /// It fails at once with [`Unknown`](lightbus_core::ErrorKind::Unknown).
    Refuse,
}

/// The types of queues for events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QueueType {
    /// Replicated to several nodes, and on disk when it is confirmed.
    #[default]
    Quorum,
    /// On one node.
    Classic,
}

/// How many past events to keep.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HistoryConfig {
    /// How long events are kept, at least. Default: 604,800 s (seven days).
    pub max_age: Seconds,
    /// Approximately how many bytes of events are kept for each API. Default: 1 GiB.
    pub max_bytes: u64,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { max_age: Seconds::new(604_800), max_bytes: 1 << 30 }
    }
}
