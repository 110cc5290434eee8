//! The options of the transports, as they stand in the configuration.
//!
//! Names and defaults are those of Python's Lightbus. What it does not have is marked *Rust only*:
//! a file that has such an option does not load in Python.

use lightbus_core::config_types::{Seconds, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};

/// What Python passes to its client library; here what of it means something.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionParameters {
    /// Accepted, and without effect: all sends of a process share one connection.
    #[schemars(extend("x-without-effect" = "all sends of a process share one connection"))]
    pub maxsize: Option<u32>,
    /// Accepted, and without effect.
    #[schemars(extend("x-without-effect" = "all sends of a process share one connection"))]
    pub minsize: Option<u32>,
    /// Accepted, and without effect: `url` is what counts, as in Python.
    #[schemars(extend("format" = "uri", "writeOnly" = false, "x-without-effect" = "`url` is what counts"))]
    pub address: Option<Secret>,
    /// The number of the database, if `url` names none.
    pub db: Option<u32>,
    /// The user, if `url` names none. *Rust only.*
    #[schemars(extend("x-rust-only" = true))]
    pub username: Option<String>,
    /// The password, if `url` has none.
    pub password: Option<Secret>,
    /// Encrypt: the same as `rediss://`. Needs the cargo feature `tls`.
    pub ssl: Option<bool>,
    /// How long connecting may take. Default: 5 s.
    pub timeout: Option<Seconds>,
    /// How long an answer to anything but a blocking read may take, before the connection counts as
    /// broken. Default: 10 s. *Rust only.*
    #[schemars(extend("x-rust-only" = true))]
    pub response_timeout: Option<Seconds>,
}

/// Certificates for encrypted connections. *Rust only.*
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// The file of the certificate authority (PEM). Without it those of the system count.
    pub ca_file: Option<String>,
    /// The file of the client's own certificate (PEM).
    pub cert_file: Option<String>,
    /// The file of the key to `cert_file` (PEM).
    pub key_file: Option<String>,
}

/// A Redis Cluster. *Rust only.*
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfig {
    /// Some of its nodes, each `host:port`; the others are found. User, password and encryption are
    /// those of `url`, whose host does not matter.
    pub nodes: Vec<String>,
}

/// A primary that Redis Sentinel watches. *Rust only.*
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentinelConfig {
    /// The name under which the sentinels know the primary.
    pub master: String,
    /// The sentinels, each `host:port`. User, password, database and encryption of the primary are
    /// those of `url`, whose host does not matter.
    pub nodes: Vec<String>,
    /// The user at the sentinels.
    #[serde(default)]
    pub username: Option<String>,
    /// The password at the sentinels.
    #[serde(default)]
    pub password: Option<Secret>,
}

/// Where Redis is: what decides which transports share a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionConfig {
    pub(crate) url: Secret,
    pub(crate) parameters: ConnectionParameters,
    pub(crate) tls: Option<TlsConfig>,
    pub(crate) cluster: Option<ClusterConfig>,
    pub(crate) sentinel: Option<SentinelConfig>,
}

/// Declares the options of one kind of transport: those of the connection, then its own.
macro_rules! options {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $default:expr,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            /// Where Redis is: `redis://[user:password@]host[:port][/db]`, `rediss://` for an
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
            /// A primary watched by Redis Sentinel. *Rust only;* needs the cargo feature `sentinel`.
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
        /// The most calls that a worker takes at once. Default: what the bus asks for.
        batch_size: Option<usize> = None,
        /// How long a call that carries no deadline of its own (Python's) counts as wanted by its
        /// caller. Calls from here expire with their own deadline. Default: 5 s.
        rpc_timeout: Seconds = Seconds::new(5),
        /// The wait before a call that could not be sent is tried again. Default: 1 s.
        rpc_retry_delay: Seconds = Seconds::new(1),
        /// Accepted, and without effect: waits grow from 50 ms to 5 s. Default: 5 s.
        #[schemars(extend("x-without-effect" = "a lost connection is made anew after 50 ms, then after growing waits up to 5 s"))]
        consumption_restart_delay: Seconds = Seconds::new(5),
        /// Python's default only.
        #[serde(deserialize_with = "blob_serializer")]
        serializer: Option<String> = None,
        /// Python's default only.
        #[serde(deserialize_with = "blob_deserializer")]
        deserializer: Option<String> = None,
    }
}

options! {
    /// Options of the transport for results.
    ResultConfig {
        /// Accepted, and without effect: the caller's own timeout counts. Default: 5 s.
        #[schemars(extend("x-without-effect" = "a caller waits for the `rpc_timeout` of its API"))]
        rpc_timeout: Seconds = Seconds::new(5),
        /// How long a result that nobody fetches is kept, in whole seconds. Default: 60 s.
        result_ttl: u32 = 60,
        /// Python's default only.
        #[serde(deserialize_with = "blob_serializer")]
        serializer: Option<String> = None,
        /// Python's default only.
        #[serde(deserialize_with = "blob_deserializer")]
        deserializer: Option<String> = None,
    }
}

options! {
    /// Options of the transport for events.
    EventConfig {
        /// The most events to read at once. Default: 100, where Python has 10: a read of 100 costs
        /// no more than one of 10, and gives four times the throughput.
        batch_size: usize = 100,
        /// The most events of others to look through at once for those that were abandoned.
        /// Default: 10 × `batch_size`, at most 1000.
        reclaim_batch_size: Option<usize> = None,
        /// An event that was taken and not acknowledged for this long is given to another process.
        /// While its handler runs it is kept. Default: 60 s; fractions allowed.
        acknowledgement_timeout: Seconds = Seconds::new(60),
        /// How often a busy listener looks for abandoned events; an idle one looks each second.
        /// Default: `acknowledgement_timeout`; fractions allowed.
        reclaim_interval: Option<Seconds> = None,
        /// About how many events a stream keeps; `null` or 0: all. Default: 100,000.
        max_stream_length: Option<u64> = Some(100_000),
        /// Whether all events of an API share a stream. All processes must agree.
        stream_use: StreamUse = StreamUse::PerApi,
        /// Accepted, and without effect: waits grow from 50 ms to 5 s. Default: 5 s.
        #[schemars(extend("x-without-effect" = "a lost connection is made anew after 50 ms, then after growing waits up to 5 s"))]
        consumption_restart_delay: Seconds = Seconds::new(5),
        /// Consumers without pending events that have been idle for this long are removed when a
        /// listener starts; 0: never. Default: 2,592,000 s (30 days).
        consumer_ttl: Seconds = Seconds::new(2_592_000),
        /// In the place of the service's name, in the names of consumer groups.
        service_name: Option<String> = None,
        /// In the place of the process' name, as the name of the consumer.
        consumer_name: Option<String> = None,
        /// Python's default only.
        #[serde(deserialize_with = "field_serializer")]
        serializer: Option<String> = None,
        /// Python's default only.
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
    /// All events of an API: they keep their order among each other.
    #[default]
    PerApi,
    /// Each event has a stream of its own.
    PerEvent,
}

fn python_class<'de, D: Deserializer<'de>>(
    deserializer: D,
    known: &'static str,
) -> Result<Option<String>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        Some(path) if path != known => Err(de::Error::custom(format_args!(
            "`{path}` names a Python class, which has no counterpart in Rust: leave it out, or write `{known}`"
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
