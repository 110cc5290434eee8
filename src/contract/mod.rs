//! What an API is made of: the part that `#[api]` and `#[derive(Event)]` write, and the bus reads.
//!
//! A contract is data: names, descriptions and schemas. It can be looked at, published and
//! compared without an implementation.

mod error;
mod event;
mod service;

use schemars::{Schema, SchemaGenerator};

pub use error::{ApiError, CallError};
pub use event::{Event, EventFields};
pub use service::Service;

/// An API: what can be called and listened to under one name.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    /// The full dotted name on the bus.
    pub name: &'static str,
    /// Sent with every event.
    pub version: u32,
    /// What the API is for: its doc comment.
    pub description: &'static str,
    /// What can be called.
    pub procedures: &'static [Procedure],
    /// What can be listened to.
    pub events: &'static [EventContract],
    /// What the API relies on, by the names of
    /// [`Capabilities`](lightbus_core::Capabilities): `durable`, `ordered`, ….
    pub requires: &'static [&'static str],
}

impl Contract {
    /// The procedure of this name.
    #[must_use]
    pub fn procedure(&self, name: &str) -> Option<&'static Procedure> {
        self.procedures.iter().find(|procedure| procedure.name == name)
    }

    /// The event of this name.
    #[must_use]
    pub fn event(&self, name: &str) -> Option<&'static EventContract> {
        self.events.iter().find(|event| event.name == name)
    }
}

/// A procedure of an API.
#[derive(Clone, Copy, Debug)]
pub struct Procedure {
    /// Its name on the bus.
    pub name: &'static str,
    /// What it does: its doc comment.
    pub description: &'static str,
    /// What it takes, in order.
    pub parameters: &'static [Parameter],
    /// The schema of what it gives.
    pub response: fn(&mut SchemaGenerator) -> Schema,
}

/// An event of an API.
#[derive(Clone, Copy, Debug)]
pub struct EventContract {
    /// Its name on the bus.
    pub name: &'static str,
    /// When it is fired: its doc comment.
    pub description: &'static str,
    /// What it carries, in order.
    pub parameters: &'static [Parameter],
}

/// An argument of a procedure or an event.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name on the bus.
    pub name: &'static str,
    /// What it means: its doc comment.
    pub description: &'static str,
    /// Its type.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Whether it must be given. An `Option` need not, nor what has a default.
    pub required: bool,
    /// What it is when it is left out, as a JSON value.
    pub default: Option<fn() -> serde_json::Value>,
}
