#![doc = include_str!("../README.md")]

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

use client::Client;
pub use config::MemoryConfig;
pub use event::MemoryEventTransport;
pub use result::MemoryResultTransport;
pub use rpc::MemoryRpcTransport;
pub use schema::MemorySchemaTransport;

/// The name of this transport in a configuration.
pub const NAME: &str = "memory";

/// Makes transports that share one broker: those of one factory, and of its clones, reach each other,
/// and nobody else does.
#[derive(Clone, Debug, Default)]
pub struct MemoryFactory {
    client: Client,
}

impl TransportFactory for MemoryFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self, _kind: TransportKind) -> Option<serde_json::Value> {
        Some(config_types::describe::<MemoryConfig>())
    }

    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        Ok(Arc::new(MemoryRpcTransport::new(&self.client, section.parse()?)))
    }

    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        Ok(Arc::new(MemoryResultTransport::new(&self.client, section.parse()?)))
    }

    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        Ok(Arc::new(MemoryEventTransport::new(&self.client, section.parse()?)))
    }

    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        Ok(Arc::new(MemorySchemaTransport::new(&self.client, section.parse()?)))
    }
}

fn capabilities() -> Capabilities {
    let mut capabilities = Capabilities::default();
    capabilities.ordered = true;
    capabilities.replay = true;
    capabilities.history = true;
    capabilities.lag = true;
    capabilities.dead_letters = true;
    capabilities
}

/// What is the same for all four kinds.
macro_rules! transport {
    ($type:ty, $what:literal) => {
        #[async_trait::async_trait]
        impl lightbus_core::Transport for $type {
            fn name(&self) -> &'static str {
                $crate::NAME
            }

            fn broker(&self) -> String {
                "this process".to_owned()
            }

            fn capabilities(&self) -> lightbus_core::Capabilities {
                $crate::capabilities()
            }

            async fn open(&self) -> lightbus_core::Result<()> {
                self.open.check(concat!("opening the ", $what))
            }

            async fn close(&self) -> lightbus_core::Result<()> {
                self.shut();
                Ok(())
            }
        }

        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("config", &self.config)
                    .field("open", &self.open)
                    .finish_non_exhaustive()
            }
        }
    };
}
use transport;
