//! A listener, as the rest of the bus sees it.

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    EventMessage,
    transport::{EventTransport, ListenSpec},
};

/// A listener of this process on one transport. A listener of events of several transports has one on
/// each.
#[async_trait]
pub(crate) trait Listening: Send + Sync {
    /// Returns what it has subscribed to.
    fn spec(&self) -> &ListenSpec;

    /// Returns the transport that its events come from.
    fn transport(&self) -> &Arc<dyn EventTransport>;

    /// Describes it for people.
    fn describe(&self) -> String;

    /// Makes one attempt to handle an event that does not come from its subscription. Settles nothing.
    ///
    /// # Errors
    ///
    /// The reason, if the event was not handled.
    async fn handle_once(&self, event: Arc<EventMessage>) -> Result<(), String>;

    /// Takes nothing more until [`resume`](Self::resume). What is at work may finish.
    fn pause(&self);

    fn resume(&self);

    /// Ends it for good, when what is at work has finished.
    async fn stop(&self);
}
