//! An API seen by those who call it.

use crate::{bus::shared::Bus, contract::Contract};

/// A typed client of an API. `#[api]` writes it: `AuthClient` for the trait `Auth`.
pub trait Client {
    /// What it calls.
    fn contract() -> &'static Contract;

    /// A client that calls over this bus.
    fn new(bus: &Bus) -> Self;
}
