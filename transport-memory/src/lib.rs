#![doc = include_str!("../README.md")]

mod broker;
mod config;
mod event;
mod result;
mod rpc;
mod schema;

use std::sync::Arc;

use lightbus_core::{
    Capabilities, Result, Section, TransportFactory,
    transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport},
};

use broker::Broker;
pub use config::MemoryConfig;
pub use event::MemoryEventTransport;
pub use result::MemoryResultTransport;
pub use rpc::MemoryRpcTransport;
pub use schema::MemorySchemaTransport;

/// The name of this transport in a configuration.
pub const NAME: &str = "memory";

/// Makes transports that stay in this process. All that one factory, and its clones, make share one
/// broker.
#[derive(Clone, Debug, Default)]
pub struct MemoryFactory {
    broker: Arc<Broker>,
}

impl TransportFactory for MemoryFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn rpc(&self, section: &Section) -> Result<Arc<dyn RpcTransport>> {
        Ok(Arc::new(MemoryRpcTransport::new(Arc::clone(&self.broker), section.parse()?)))
    }

    fn result(&self, section: &Section) -> Result<Arc<dyn ResultTransport>> {
        section.parse::<MemoryConfig>()?;
        Ok(Arc::new(MemoryResultTransport::new(Arc::clone(&self.broker))))
    }

    fn event(&self, section: &Section) -> Result<Arc<dyn EventTransport>> {
        Ok(Arc::new(MemoryEventTransport::new(Arc::clone(&self.broker), section.parse()?)))
    }

    fn schema(&self, section: &Section) -> Result<Arc<dyn SchemaTransport>> {
        section.parse::<MemoryConfig>()?;
        Ok(Arc::new(MemorySchemaTransport::new(Arc::clone(&self.broker))))
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

/// What every transport of this crate answers for [`Transport`](lightbus_core::Transport): there
/// is nothing to connect to, and closing is a flag.
macro_rules! transport {
    ($name:ident) => {
        #[async_trait::async_trait]
        impl lightbus_core::Transport for $name {
            fn name(&self) -> &'static str {
                crate::NAME
            }

            fn broker(&self) -> String {
                "this process".to_owned()
            }

            fn capabilities(&self) -> lightbus_core::Capabilities {
                crate::capabilities()
            }

            async fn open(&self) -> lightbus_core::Result<()> {
                self.life.ensure_open()
            }

            async fn close(&self) -> lightbus_core::Result<()> {
                self.life.close();
                Ok(())
            }
        }
    };
}
use transport;
