#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
// `Instant + Duration` panics where the sum has no representation: `time::after` saturates.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod batcher;
mod client;
#[cfg(feature = "cluster")]
mod cluster;
mod config;
mod diagnose;
mod endpoint;
mod error;
mod event;
mod factory;
mod header;
mod link;
mod locate;
mod reader;
mod result;
mod rpc;
mod schema;
#[cfg(feature = "sentinel")]
mod sentinel;
#[cfg(feature = "tls")]
mod tls;
mod value;

pub use config::{
    ClusterConfig, ConnectionParameters, EventConfig, ResultConfig, RpcConfig, SchemaConfig,
    SentinelConfig, StreamUse, TlsConfig,
};
pub use event::RedisEventTransport;
pub use factory::RedisFactory;
pub use result::RedisResultTransport;
pub use rpc::RedisRpcTransport;
pub use schema::RedisSchemaTransport;

use lightbus_core::Capabilities;
pub use lightbus_core::config_types::{Seconds, Secret};

/// The name by which the configuration selects this transport.
pub const NAME: &str = "redis";

/// The capabilities of all four transports.
const CAPABILITIES: Capabilities = Capabilities::new()
    .durable(true)
    .ordered(true)
    .replay(true)
    .history(true)
    .lag(true)
    .backlog(true)
    .dead_letters(true)
    .shared(true)
    .resumes(true);
