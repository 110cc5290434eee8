#![doc = include_str!("../README.md")]
// `Instant + Duration` panics where the sum has no representation: `time::after` saturates.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod client;
mod config;
mod event;
mod result;
mod rpc;
mod schema;

use std::sync::Arc;

use lightbus_core::{
    Capabilities, ConfigSection, Result, TransportFactory, TransportKind, config_types,
    transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport},
};

use client::Broker;
pub use config::MemoryConfig;
pub use event::MemoryEventTransport;
pub use result::MemoryResultTransport;
pub use rpc::MemoryRpcTransport;
pub use schema::MemorySchemaTransport;

/// The name of this transport in a configuration.
pub const NAME: &str = "memory";

/// Makes transports that share one broker. Transports of one factory, and of its clones, reach each
/// other; those of another factory do not.
#[derive(Clone, Debug, Default)]
pub struct MemoryFactory {
    broker: Arc<Broker>,
}

impl TransportFactory for MemoryFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self, _kind: TransportKind) -> Option<serde_json::Value> {
        Some(config_types::describe::<MemoryConfig>())
    }

    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        Ok(Arc::new(MemoryRpcTransport::new(&self.broker, section.parse()?)))
    }

    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        section.parse::<MemoryConfig>()?;
        Ok(Arc::new(MemoryResultTransport::new(&self.broker)))
    }

    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        Ok(Arc::new(MemoryEventTransport::new(&self.broker, section.parse()?)))
    }

    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        section.parse::<MemoryConfig>()?;
        Ok(Arc::new(MemorySchemaTransport::new(&self.broker)))
    }
}

const CAPABILITIES: Capabilities = Capabilities::new()
    .ordered(true)
    .replay(true)
    .history(true)
    .lag(true)
    .backlog(true)
    .dead_letters(true)
    .resumes(true);
