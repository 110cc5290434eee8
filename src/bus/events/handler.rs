//! A handler as a listener holds it, and how one try of it fails.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use lightbus_core::{Error, EventMessage};

use crate::bus::shared::HandlerError;

pub(super) type Handler =
    Arc<dyn Fn(Arc<EventMessage>) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// Why one try failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The handler said so.
    Failed(HandlerError),
    /// The event cannot be read: trying again is useless.
    Unreadable(Error),
}
