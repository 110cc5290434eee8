//! A listener of this process, as the rest of the bus sees it.

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    EventMessage,
    transport::{EventTransport, ListenSpec},
};

/// A listener of this process, on one of the transports that it has events on.
#[async_trait]
pub(crate) trait Listening: Send + Sync {
    /// What it has subscribed to.
    fn spec(&self) -> &ListenSpec;

    /// Where its events come from.
    fn transport(&self) -> &Arc<dyn EventTransport>;

    /// In words, for people.
    fn describe(&self) -> String;

    /// Hands it an event past its subscription, once: nothing is settled.
    ///
    /// # Errors
    ///
    /// Why it was not handled.
    async fn handle_once(&self, event: Arc<EventMessage>) -> Result<(), String>;
}
