//! The plugins of a process, as the rest of the bus sees them. Plugins are given a `Bus`, so the trait
//! for them cannot be known here.

use async_trait::async_trait;
use lightbus_core::{EventMessage, Result, ResultMessage, RpcMessage};

/// All plugins, in their order. Each method calls that of every [`Plugin`](crate::plugins::Plugin).
#[async_trait]
pub(crate) trait PluginChain: Send + Sync {
    /// Whether there are no plugins. Callers then skip the work of calling them.
    fn is_empty(&self) -> bool;

    fn names(&self) -> Vec<&str>;

    async fn before_start(&self) -> Result<()>;

    async fn after_start(&self) -> Result<()>;

    async fn after_stop(&self);

    async fn before_rpc_call(&self, call: &mut RpcMessage) -> Result<()>;

    async fn after_rpc_call(&self, call: &RpcMessage, result: &mut ResultMessage) -> Result<()>;

    async fn before_rpc_execution(&self, call: &mut RpcMessage) -> Result<()>;

    async fn after_rpc_execution(
        &self,
        call: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()>;

    async fn before_event_sent(&self, event: &mut EventMessage) -> Result<()>;

    async fn after_event_sent(&self, event: &EventMessage);

    async fn before_event_execution(&self, event: &mut EventMessage, listener: &str) -> Result<()>;

    async fn after_event_execution(&self, event: &EventMessage, listener: &str);
}
