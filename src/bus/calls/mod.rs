//! Calls: making them and answering them.

mod call;
mod client;
mod handlers;
#[cfg(feature = "tower")]
mod layer;
mod nested;
mod serve;

pub use call::{Call, CallFailure};
pub use client::Client;
#[cfg(feature = "tower")]
pub use layer::Procedures;
pub(crate) use nested::LocalWorker;
pub use serve::Serve;
