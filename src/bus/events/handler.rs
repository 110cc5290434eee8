//! The handler of a listener, with its type erased.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use lightbus_core::{Error, EventMessage};

use crate::bus::shared::HandlerError;

pub(super) type Handler =
    Arc<dyn Fn(Arc<EventMessage>) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The handler returned an error.
    Failed(HandlerError),
    /// The event cannot be decoded. Retrying is pointless.
    Unreadable(Error),
}
