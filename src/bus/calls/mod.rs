//! Calls: making them and answering them.

mod call;
mod client;
mod handlers;
#[cfg(feature = "tower")]
mod layer;
mod serve;

pub use call::{Call, CallFailure};
pub use client::Client;
#[cfg(feature = "tower")]
pub use layer::Procedures;
pub use serve::Serve;
