//! Operating a bus: [`Admin`].

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

/// Operations for operators and tools: inspecting brokers, handling dead letters, standing in for another
/// service. Returned by [`Bus::admin`]. Cheap to clone.
///
/// Methods access the broker unless they say otherwise, and fail with
/// [`Closed`](lightbus_core::ErrorKind::Closed) once the bus is closed. Methods that only read may be
/// cancelled at any time.
#[derive(Clone, Debug)]
pub struct Admin {
    bus: Bus,
}

impl Bus {
    /// Returns the operations for operators and tools. The handle keeps the bus alive, as a clone does.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin { bus: self.clone() }
    }
}
