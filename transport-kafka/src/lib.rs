#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
// `Instant + Duration` panics where the sum has no representation: `time::after` saturates.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod client;
mod config;
mod context;
mod diagnose;
mod endpoint;
mod error;
mod event;
mod factory;
#[allow(
    clippy::arithmetic_side_effects,
    reason = "its times are constants, and limits of the configuration, a century at most"
)]
mod group;
mod header;
mod locate;
mod producer;
mod reader;
mod result;
mod rpc;
mod schema;
mod topic;

pub use config::{
    Brokers, EventConfig, ResultConfig, RpcConfig, SaslConfig, SaslMechanism, SchemaConfig,
    Setting, TlsConfig, TopicUse,
};
pub use event::KafkaEventTransport;
pub use factory::KafkaFactory;
pub use result::KafkaResultTransport;
pub use rpc::KafkaRpcTransport;
pub use schema::KafkaSchemaTransport;

use lightbus_core::Capabilities;
pub use lightbus_core::config_types::{Seconds, Secret};

/// The name by which the configuration selects this transport.
pub const NAME: &str = "kafka";

/// The capabilities of all four transports.
const CAPABILITIES: Capabilities = Capabilities::new()
    .durable(true)
    .ordered_by_key(true)
    .replay(true)
    .history(true)
    .lag(true)
    .backlog(true)
    .dead_letters(true)
    .shared(true)
    .resumes(true);
