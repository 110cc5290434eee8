#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
// `Instant + Duration` panics where the sum has no representation: `time::after` saturates.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod client;
mod config;
mod delivered;
mod diagnose;
mod endpoint;
mod error;
mod event;
mod factory;
mod header;
mod limits;
mod link;
mod locate;
mod publisher;
mod result;
mod rpc;
mod schema;
mod server_properties;
mod session;
mod set_up;
mod stream;
mod tls;
mod topology;

pub use config::{
    EventConfig, HistoryConfig, QueueType, ResultConfig, RpcConfig, SchemaConfig, TlsConfig,
    UnknownApi,
};
pub use event::AmqpEventTransport;
pub use factory::AmqpFactory;
pub use result::AmqpResultTransport;
pub use rpc::AmqpRpcTransport;
pub use schema::AmqpSchemaTransport;

use lightbus_core::Capabilities;
pub use lightbus_core::config_types::{Seconds, Secret};

/// The name by which the configuration selects this transport.
pub const NAME: &str = "amqp";

/// Returns the capabilities of the transports. `history` is whether streams keep past events.
fn capabilities(history: bool) -> Capabilities {
    Capabilities::new()
        .durable(true)
        .ordered(true)
        .replay(history)
        .history(history)
        .lag(true)
        .backlog(true)
        .dead_letters(true)
        .shared(true)
        .resumes(true)
}
