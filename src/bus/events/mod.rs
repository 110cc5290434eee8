//! Events: firing them and listening to them.

mod batches;
mod breaker;
mod claims;
mod control;
mod fire;
mod handler;
mod key_queues;
mod lane;
#[cfg(feature = "tower")]
mod layer;
mod listen;
mod listener;
mod on_error;
mod received;
mod retry;
mod run;
mod run_batches;
mod selection;

pub use fire::Fired;
#[cfg(feature = "tower")]
pub use layer::Handling;
pub use listen::Listen;
pub use on_error::{OnError, RetryPolicy};
pub use received::{FromEvent, Received};

pub(crate) use listen::by_transport;
