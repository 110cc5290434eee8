//! Plugins: code that sees, and may change, what goes through a process.
//!
//! A plugin implements [`Plugin`] and is added with [`BusBuilder::plugin`](crate::BusBuilder::plugin).
//! Two come with lightbus, as with Python's: [`StatePlugin`] says on the bus that processes start, live
//! and stop, [`MetricsPlugin`] says what is called, fired and handled. The configuration switches them
//! on (`plugins.internal_state.enabled`, `plugins.internal_metrics.enabled`).
//!
//! Without plugins, nothing is paid for them.

mod internal;
mod metrics;
mod state;

use std::sync::{Arc, Weak};

use async_trait::async_trait;
use lightbus_core::{Error, EventMessage, Result, ResultMessage, RpcMessage};

pub use metrics::MetricsPlugin;
pub use state::StatePlugin;

use crate::bus::{Bus, Inner, PluginChain};

/// What a plugin may do before and after everything that goes through a process. Each method does
/// nothing unless it is written, and is named as in Python.
///
/// Of the messages that are changed, **arguments and headers** count, and of a result the body; names,
/// ids and deadlines stay as they were. A method that takes long makes what it belongs to take as long.
/// What plugins themselves call and fire goes through all plugins, too.
///
/// # Errors
///
/// An error of a `before_…` method refuses what it comes before: the call, or the event, fails with it
/// at the one who makes it; the execution fails as if the procedure or the handler had. An error of
/// `after_rpc_call` and `after_rpc_execution` takes the place of the result. Other errors are logged.
///
/// ```
/// use lightbus::{EventMessage, Result, RpcMessage, plugins::Plugin, prelude::*};
///
/// /// Says who sent a message.
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
#[allow(unused_variables, reason = "the names are for those who read them")]
pub trait Plugin: Send + Sync + 'static {
    /// Its name, for errors and the log.
    fn name(&self) -> &str;

    /// Plugins with a lower number come first, before as well as after: 1000. Of equal ones, the one
    /// that was added first. [`StatePlugin`] has 100, [`MetricsPlugin`] 110.
    fn priority(&self) -> u32 {
        1000
    }

    /// [`Bus::run`] begins: before the [`on_start`](Bus::on_start) hooks. An error ends the process.
    async fn before_start(&self, bus: &Bus) -> Result<()> {
        Ok(())
    }

    /// [`Bus::run`] has begun: all hooks have run, all tasks are started.
    async fn after_start(&self, bus: &Bus) -> Result<()> {
        Ok(())
    }

    /// The bus has drained, the [`on_stop`](Bus::on_stop) hooks have run. The bus still carries calls
    /// and events.
    async fn after_stop(&self, bus: &Bus) -> Result<()> {
        Ok(())
    }

    /// This process is about to call, before the arguments are checked.
    async fn before_rpc_call(&self, bus: &Bus, call: &mut RpcMessage) -> Result<()> {
        Ok(())
    }

    /// A call of this process was answered. Not after a timeout.
    async fn after_rpc_call(
        &self,
        bus: &Bus,
        call: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()> {
        Ok(())
    }

    /// This process is about to execute a call, before the arguments are checked.
    async fn before_rpc_execution(&self, bus: &Bus, call: &mut RpcMessage) -> Result<()> {
        Ok(())
    }

    /// This process has executed a call, well or not, and is about to send the result.
    async fn after_rpc_execution(
        &self,
        bus: &Bus,
        call: &RpcMessage,
        result: &mut ResultMessage,
    ) -> Result<()> {
        Ok(())
    }

    /// This process is about to fire, before the arguments are checked.
    async fn before_event_sent(&self, bus: &Bus, event: &mut EventMessage) -> Result<()> {
        Ok(())
    }

    /// The broker has an event of this process.
    async fn after_event_sent(&self, bus: &Bus, event: &EventMessage) -> Result<()> {
        Ok(())
    }

    /// A listener of this process is about to handle an event: before each try.
    async fn before_event_execution(
        &self,
        bus: &Bus,
        event: &mut EventMessage,
        listener: &str,
    ) -> Result<()> {
        Ok(())
    }

    /// A listener of this process has handled an event, which is about to be acknowledged.
    async fn after_event_execution(
        &self,
        bus: &Bus,
        event: &EventMessage,
        listener: &str,
    ) -> Result<()> {
        Ok(())
    }
}

/// The plugins of a process, in their order.
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

/// What a plugin's error says beside its own words.
fn explain(plugin: &dyn Plugin, error: Error) -> Error {
    error.with("plugin", plugin.name())
}

/// Asks all plugins in their order; the first error ends it.
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

/// Asks all plugins in their order; errors are logged.
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
