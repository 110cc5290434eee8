//! Plugins: code that sees, and may change, the messages of a process.
//!
//! A plugin implements [`Plugin`] and is added with [`BusBuilder::plugin`](crate::BusBuilder::plugin).
//! Lightbus has two, as in Python: [`StatePlugin`] publishes that processes start, live and stop,
//! [`MetricsPlugin`] publishes what is called, fired and handled. The configuration enables them
//! (`plugins.internal_state.enabled`, `plugins.internal_metrics.enabled`).
//!
//! A process without plugins pays nothing for them.

mod internal;
mod metrics;
mod state;

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use lightbus_core::{Error, EventMessage, Result, ResultMessage, RpcMessage};

pub use metrics::MetricsPlugin;
pub use state::StatePlugin;

use crate::bus::{Bus, Inner, PluginChain};

/// Hooks before and after everything that a process calls, executes, fires and handles. Every hook does
/// nothing by default, and is named as in Python.
///
/// Hooks may change **arguments and headers** of a message, and the body of a result; changes to names,
/// ids and deadlines are ignored. Hooks are awaited: a slow hook delays the message. What plugins
/// themselves call and fire passes through all plugins, too.
///
/// # Errors
///
/// An error of a `before_…` hook prevents what would follow: the call or the fire fails with it; an
/// execution fails as if the procedure or the handler had returned it. An error of `after_rpc_call` or
/// `after_rpc_execution` replaces the result. Other errors are logged.
///
/// ```
/// use lightbus::{EventMessage, Result, RpcMessage, plugins::Plugin, prelude::*};
///
/// /// Adds the sender to every message.
/// struct Sender(&'static str);
///
/// #[lightbus::async_trait]
/// impl Plugin for Sender {
///     fn name(&self) -> &str {
///         "sender"
///     }
///
///     async fn before_rpc_call(&self, _: &Bus, call: &mut RpcMessage) -> Result<()> {
///         call.headers.set("sender", self.0);
///         Ok(())
///     }
///
///     async fn before_event_sent(&self, _: &Bus, event: &mut EventMessage) -> Result<()> {
///         event.headers.set("sender", self.0);
///         Ok(())
///     }
/// }
///
/// # async fn example() -> Result<Bus> {
/// Bus::builder().plugin(Sender("shop")).connect().await
/// # }
/// ```
#[async_trait]
#[allow(unused_variables, reason = "the names document the default methods")]
pub trait Plugin: Send + Sync + 'static {
    /// Returns the plugin's name, for errors and logs.
    fn name(&self) -> &str;

    /// Returns the plugin's priority. Default: 1000. Plugins with a lower number run first, in `before_…`
    /// and `after_…` hooks alike; of equals, the one added first. [`StatePlugin`] has 100,
    /// [`MetricsPlugin`] 110.
    fn priority(&self) -> u32 {
        1000
    }

    /// Called when [`Bus::run`] begins, before the [`on_start`](Bus::on_start) hooks. An error ends the
    /// process.
    async fn before_start(&self, bus: &Bus) -> Result<()> {
        Ok(())
    }

    /// Called when [`Bus::run`] has run all hooks and started all tasks. An error ends the process.
    async fn after_start(&self, bus: &Bus) -> Result<()> {
        Ok(())
    }

    /// Called when the bus has drained and the [`on_stop`](Bus::on_stop) hooks have run. Calling and
    /// firing still work.
    async fn after_stop(&self, bus: &Bus) -> Result<()> {
        Ok(())
    }

    /// Called before this process makes a call, before the arguments are validated.
    async fn before_rpc_call(&self, bus: &Bus, call: &mut RpcMessage) -> Result<()> {
        Ok(())
    }

    /// Called when a call of this process has been answered. Not called after a timeout.
    async fn after_rpc_call(
        &self,
        bus: &Bus,
        call: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()> {
        Ok(())
    }

    /// Called before this process executes a call, before the arguments are validated.
    async fn before_rpc_execution(&self, bus: &Bus, call: &mut RpcMessage) -> Result<()> {
        Ok(())
    }

    /// Called when this process has executed a call, successfully or not, before the result is sent.
    async fn after_rpc_execution(
        &self,
        bus: &Bus,
        call: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()> {
        Ok(())
    }

    /// Called before this process fires an event, before the arguments are validated.
    async fn before_event_sent(&self, bus: &Bus, event: &mut EventMessage) -> Result<()> {
        Ok(())
    }

    /// Called when the broker has confirmed an event of this process.
    async fn after_event_sent(&self, bus: &Bus, event: &EventMessage) -> Result<()> {
        Ok(())
    }

    /// Called before each attempt of a listener of this process to handle an event.
    async fn before_event_execution(
        &self,
        bus: &Bus,
        event: &mut EventMessage,
        listener: &str,
    ) -> Result<()> {
        Ok(())
    }

    /// Called when a listener of this process has handled an event, before it is acknowledged.
    async fn after_event_execution(
        &self,
        bus: &Bus,
        event: &EventMessage,
        listener: &str,
    ) -> Result<()> {
        Ok(())
    }
}

/// The plugins of a process, ordered by priority.
pub(crate) struct Plugins {
    list: Vec<Arc<dyn Plugin>>,
    bus: Weak<Inner>,
}

impl Plugins {
    pub(crate) fn new(mut list: Vec<Arc<dyn Plugin>>, bus: Weak<Inner>) -> Self {
        list.sort_by_key(|plugin| plugin.priority());
        Self { list, bus }
    }

    fn bus(&self) -> Option<Bus> {
        self.bus.upgrade().map(Bus::from_inner)
    }
}

/// Adds the plugin's name to its error.
fn explain(plugin: &dyn Plugin, error: Error) -> Error {
    error.with("plugin", plugin.name())
}

/// Calls a hook of all plugins in their order, until one fails.
macro_rules! each {
    ($self:ident, $method:ident($($argument:expr),*)) => {{
        let Some(bus) = $self.bus() else { return Ok(()) };
        for plugin in &$self.list {
            plugin
                .$method(&bus, $($argument),*)
                .await
                .map_err(|error| explain(&**plugin, error))?;
        }
        Ok(())
    }};
}

/// Calls a hook of all plugins in their order. Errors are logged.
macro_rules! each_logged {
    ($self:ident, $method:ident($($argument:expr),*)) => {{
        let Some(bus) = $self.bus() else { return };
        for plugin in &$self.list {
            if let Err(error) = plugin.$method(&bus, $($argument),*).await {
                tracing::error!(%error, plugin = plugin.name(), hook = stringify!($method), "a plugin failed");
            }
        }
    }};
}

#[async_trait]
impl PluginChain for Plugins {
    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn names(&self) -> Vec<&str> {
        self.list.iter().map(|plugin| plugin.name()).collect()
    }

    async fn before_start(&self) -> Result<()> {
        each!(self, before_start())
    }

    async fn after_start(&self) -> Result<()> {
        each!(self, after_start())
    }

    async fn after_stop(&self) {
        each_logged!(self, after_stop())
    }

    async fn before_rpc_call(&self, call: &mut RpcMessage) -> Result<()> {
        each!(self, before_rpc_call(call))
    }

    async fn after_rpc_call(&self, call: &RpcMessage, result: &mut ResultMessage) -> Result<()> {
        each!(self, after_rpc_call(call, result))
    }

    async fn before_rpc_execution(&self, call: &mut RpcMessage) -> Result<()> {
        each!(self, before_rpc_execution(call))
    }

    async fn after_rpc_execution(
        &self,
        call: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()> {
        each!(self, after_rpc_execution(call, result))
    }

    async fn before_event_sent(&self, event: &mut EventMessage) -> Result<()> {
        each!(self, before_event_sent(event))
    }

    async fn after_event_sent(&self, event: &EventMessage) {
        each_logged!(self, after_event_sent(event))
    }

    async fn before_event_execution(&self, event: &mut EventMessage, listener: &str) -> Result<()> {
        each!(self, before_event_execution(event, listener))
    }

    async fn after_event_execution(&self, event: &EventMessage, listener: &str) {
        each_logged!(self, after_event_execution(event, listener))
    }
}
