//! Used by code that the macros generate. Not part of the public API: it may change at any time.

pub use std::sync::LazyLock;

pub use bytes::Bytes;
pub use futures_util::future::BoxFuture;
pub use lightbus_core::{Arguments, codec};
pub use schemars;
pub use serde;
pub use serde_json;

use lightbus_core::Name;

use crate::{Bus, Call, Result};

/// Creates the call of a typed client.
pub fn call<T, E>(
    bus: &Bus,
    api: &Name,
    procedure: &Name,
    fields: Result<Arguments>,
) -> Call<T, E> {
    Call::new(bus.clone(), api.clone(), procedure.clone(), fields)
}
