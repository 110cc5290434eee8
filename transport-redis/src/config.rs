//! The options of the transports, as the configuration has them.
//!
//! Names and defaults are those of Python's Lightbus. Options that it does not have are marked *Rust
//! only*: Python does not load a file that has one.

use lightbus_core::config_types::{Seconds, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// The options that Python passes to its client library.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionParameters {
    /// Has no effect: all sends of a process share one connection.
    #[schemars(extend("x-without-effect" = "all sends of a process share one connection"))]
    pub maxsize: Option<u32>,
    /// Has no effect.
    #[schemars(extend("x-without-effect" = "all sends of a process share one connection"))]
    pub minsize: Option<u32>,
    /// Has no effect: only `url` counts, as in Python.
    #[schemars(extend("format" = "uri", "writeOnly" = false, "x-without-effect" = "only `url` counts"))]
    pub address: Option<Secret>,
    /// The database's number, if `url` has none.
    pub db: Option<u32>,
    /// The user, if `url` has none. *Rust only.*
    #[schemars(extend("x-rust-only" = true))]
    pub username: Option<String>,
    /// The password, if `url` has none.
    pub password: Option<Secret>,
    /// Encrypts the connection, like `rediss://`. Needs the cargo feature `tls`.
    pub ssl: Option<bool>,
    /// How long connecting may take. Default: 5 s.
    pub timeout: Option<Seconds>,
    /// How long an answer may take before the connection counts as broken. Blocking reads have their
    /// own limit. Default: 10 s. *Rust only.*
    #[schemars(extend("x-rust-only" = true))]
    pub response_timeout: Option<Seconds>,
}

/// Certificates for encrypted connections. *Rust only.*
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The file of the certificate authority (PEM). Default: the system's authorities.
    pub ca_file: Option<String>,
    /// The file of the client's own certificate (PEM).
    pub cert_file: Option<String>,
    /// The file of the private key of `cert_file` (PEM).
    pub key_file: Option<String>,
}

/// A Redis Cluster. *Rust only.*
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Some of its nodes, each `host:port`; the others are discovered. User, password and encryption
    /// are taken from `url`, whose host is ignored.
    pub nodes: Vec<String>,
}

/// A primary monitored by Redis Sentinel. *Rust only.*
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentinelConfig {
    /// The sentinels' name of the primary.
    pub master: String,
    /// The sentinels, each `host:port`. User, password, database and encryption of the primary are
    /// taken from `url`, whose host is ignored.
    pub nodes: Vec<String>,
    /// The user on the sentinels.
    #[serde(default)]
    pub username: Option<String>,
    /// The password on the sentinels.
    #[serde(default)]
    pub password: Option<Secret>,
}

/// The options of the connection. Transports share connections if these are equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionConfig {
    pub(crate) url: Secret,
    pub(crate) parameters: ConnectionParameters,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) cluster: Option<ClusterConfig>,
    pub(crate) sentinel: Option<SentinelConfig>,
}

/// Declares the options of one kind of transport: the connection's, then its own.
macro_rules! options {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            /// The address of Redis: `redis://[user:password@]host[:port][/db]`, `rediss://` for an
            /// encrypted connection, `unix:///path?db=0` for a local socket.
            /// Default: `redis://127.0.0.1:6379/0`.
            #[schemars(extend("format" = "uri", "writeOnly" = false, "default" = "redis://127.0.0.1:6379/0"))]
            pub url: Secret,
            /// How to connect.
            pub connection_parameters: Option<ConnectionParameters>,
            /// Certificates. *Rust only;* needs the cargo feature `tls`.
            #[schemars(extend("x-rust-only" = true))]
            pub tls: Option<TlsConfig>,
            /// A Redis Cluster. *Rust only;* needs the cargo feature `cluster`.
            #[schemars(extend("x-rust-only" = true))]
            pub cluster: Option<ClusterConfig>,
            /// A primary monitored by Redis Sentinel. *Rust only;* needs the cargo feature `sentinel`.
            #[schemars(extend("x-rust-only" = true))]
            pub sentinel: Option<SentinelConfig>,
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    url: Secret::new("redis://127.0.0.1:6379/0"),
                    connection_parameters: None,
                    tls: None,
                    cluster: None,
                    sentinel: None,
                    $($field: $default,)*
                }
            }
        }

        impl $name {
            pub(crate) fn connection(&self) -> ConnectionConfig {
                ConnectionConfig {
                    url: self.url.clone(),
                    parameters: self.connection_parameters.clone().unwrap_or_default(),
                    tls: self.tls.clone(),
                    cluster: self.cluster.clone(),
                    sentinel: self.sentinel.clone(),
                }
            }
        }
    };
}

options! {
    /// Options of the transport for calls.
    RpcConfig {
        /// The most calls to take at once. Default: what the bus asks for.
        batch_size: Option<usize> = None,
        /// The time limit of a call that carries no deadline, as calls from Python do. Calls from Rust
        /// expire with their own deadline. Default: 5 s.
        rpc_timeout: Seconds = Seconds::new(5),
        /// The wait before a call that could not be sent is retried. Default: 1 s.
        rpc_retry_delay: Seconds = Seconds::new(1),
        /// Has no effect: consuming is retried with exponential backoff from 50 ms to 5 s. Default: 5 s.
        #[schemars(extend("x-without-effect" = "a lost connection is retried with exponential backoff from 50 ms to 5 s"))]
        consumption_restart_delay: Seconds = Seconds::new(5),
        /// Only Python's default is accepted.
        #[serde(deserialize_with = "blob_serializer")]
        serializer: Option<String> = None,
        /// Only Python's default is accepted.
        #[serde(deserialize_with = "blob_deserializer")]
        deserializer: Option<String> = None,
    }
}

options! {
    /// Options of the transport for results.
    ResultConfig {
        /// Has no effect: the caller's own timeout applies. Default: 5 s.
        #[schemars(extend("x-without-effect" = "a caller waits for the `rpc_timeout` of its API"))]
        rpc_timeout: Seconds = Seconds::new(5),
        /// How long Redis keeps a result that is not received, in whole seconds. Default: 60 s.
        result_ttl: u32 = 60,
        /// Only Python's default is accepted.
        #[serde(deserialize_with = "blob_serializer")]
        serializer: Option<String> = None,
        /// Only Python's default is accepted.
        #[serde(deserialize_with = "blob_deserializer")]
        deserializer: Option<String> = None,
    }
}

options! {
    /// Options of the transport for events.
    EventConfig {
        /// The most events to read at once. Default: 100. Python has 10, but reading 100 costs no more
        /// than reading 10, and has four times the throughput.
        batch_size: usize = 100,
        /// How many pending events of other processes to check at once for abandoned ones. A look checks
        /// at most four times as many in each stream; the next one continues there.
        /// Default: 10 × `batch_size`, at most 1000.
        reclaim_batch_size: Option<usize> = None,
        /// After how long an event that was not acknowledged is taken over by another process. While its
        /// handler runs, it is not. Default: 60 s; fractions allowed.
        acknowledgement_timeout: Seconds = Seconds::new(60),
        /// How often a busy listener checks for abandoned events; an idle one checks each second.
        /// Default: `acknowledgement_timeout`; fractions allowed.
        reclaim_interval: Option<Seconds> = None,
        /// Approximately how many events a stream keeps; `null` or 0: all. Default: 100,000.
        max_stream_length: Option<u64> = Some(100_000),
        /// Whether all events of an API share a stream. All processes must agree.
        stream_use: StreamUse = StreamUse::PerApi,
        /// Has no effect: consuming is retried with exponential backoff from 50 ms to 5 s. Default: 5 s.
        #[schemars(extend("x-without-effect" = "a lost connection is retried with exponential backoff from 50 ms to 5 s"))]
        consumption_restart_delay: Seconds = Seconds::new(5),
        /// After how long an idle consumer without pending events is removed, when a listener starts; 0:
        /// never. Default: 2,592,000 s (30 days).
        consumer_ttl: Seconds = Seconds::new(2_592_000),
        /// Replaces the service's name in the names of consumer groups.
        service_name: Option<String> = None,
        /// Replaces the process's name as the name of the consumer.
        consumer_name: Option<String> = None,
        /// Only Python's default is accepted.
        #[serde(deserialize_with = "field_serializer")]
        serializer: Option<String> = None,
        /// Only Python's default is accepted.
        #[serde(deserialize_with = "field_deserializer")]
        deserializer: Option<String> = None,
    }
}

options! {
    /// Options of the transport for schemas.
    SchemaConfig {}
}

/// Which events share a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamUse {
    /// All events of an API share a stream, and stay in order.
    #[default]
    PerApi,
    /// Each event has its own stream.
    PerEvent,
}

fn python_class<'de, D: Deserializer<'de>>(
    deserializer: D,
    known: &'static str,
) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(path) if path != known => Err(de::Error::custom(format_args!(
            "`{path}` names a Python class, which has no counterpart in Rust: remove the option, or set it to `{known}`"
        ))),
        path => Ok(path),
    }
}

fn blob_serializer<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    python_class(d, "lightbus.serializers.BlobMessageSerializer")
}

fn blob_deserializer<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    python_class(d, "lightbus.serializers.BlobMessageDeserializer")
}

fn field_serializer<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    python_class(d, "lightbus.serializers.ByFieldMessageSerializer")
}

fn field_deserializer<'de, D: Deserializer<'de>>(d: D) -> Result<Option<String>, D::Error> {
    python_class(d, "lightbus.serializers.ByFieldMessageDeserializer")
}
