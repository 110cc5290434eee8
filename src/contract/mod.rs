//! Contracts: the description of an API that `#[api]` and `#[derive(Event)]` generate and the bus uses.
//!
//! A contract is data: names, descriptions and schemas. It can be inspected, published and compared
//! without an implementation.

mod error;
mod event;
mod service;

use schemars::{Schema, SchemaGenerator};

pub use error::{ApiError, CallError};
pub use event::{Event, EventFields};
pub use service::Service;

/// An API: its procedures and events under one name.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    /// The full dotted name on the bus.
    pub name: &'static str,
    /// The version, sent with every event.
    pub version: u32,
    /// The doc comment of the API.
    pub description: &'static str,
    /// The procedures that can be called.
    pub procedures: &'static [Procedure],
    /// The events that can be listened to.
    pub events: &'static [EventContract],
    /// The capabilities that the API requires of its transports, by the names of
    /// [`Capabilities`](lightbus_core::Capabilities): `durable`, `ordered`, ….
    pub requires: &'static [&'static str],
}

impl Contract {
    /// Returns the procedure of this name.
    #[must_use]
    pub fn procedure(&self, name: &str) -> Option<&'static Procedure> {
        self.procedures.iter().find(|procedure| procedure.name == name)
    }

    /// Returns the event of this name.
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
    /// Its doc comment.
    pub description: &'static str,
    /// Its parameters, in order.
    pub parameters: &'static [Parameter],
    /// The schema of its result.
    pub response: fn(&mut SchemaGenerator) -> Schema,
}

/// An event of an API.
#[derive(Clone, Copy, Debug)]
pub struct EventContract {
    /// Its name on the bus.
    pub name: &'static str,
    /// Its doc comment.
    pub description: &'static str,
    /// Its fields, in order.
    pub parameters: &'static [Parameter],
}

/// A parameter of a procedure, or a field of an event.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name on the bus.
    pub name: &'static str,
    /// Its doc comment.
    pub description: &'static str,
    /// The schema of its type.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Whether it must be present. `false` for an `Option`, and for parameters with a default.
    pub required: bool,
    /// Its default, as a JSON value.
    pub default: Option<fn() -> serde_json::Value>,
}
