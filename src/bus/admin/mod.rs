//! What operators and tools do: [`Admin`].

mod dead_letters;
mod fire_on_behalf;
mod forget;
mod history;
mod locate;
mod schema_files;
mod schemas;

use super::shared::Bus;

pub use dead_letters::HandledDeadLetters;
pub use fire_on_behalf::FireOnBehalf;
pub use locate::{Diagnosis, Route};

/// What operators and tools do with a bus, and services seldom: look at what the brokers keep, handle
/// dead letters, stand in for another service. Made by [`Bus::admin`]; cheap to clone.
///
/// Every method asks a broker, unless it says otherwise, and fails with
/// [`Closed`](lightbus_core::ErrorKind::Closed) once the bus is closed.
#[derive(Clone, Debug)]
pub struct Admin {
    bus: Bus,
}

impl Bus {
    /// What operators and tools do with this bus. It holds the bus as a clone of it does.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin { bus: self.clone() }
    }
}
