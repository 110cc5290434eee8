//! Contracts: the description of an API that `#[api]` and `#[derive(Event)]` generate and the bus uses.
//!
//! A contract is data: names, descriptions and schemas. It can be inspected, published and compared
//! without an implementation.

mod error;
mod event;
mod service;

use schemars::{Schema, SchemaGenerator};

pub use error::{ApiError, CallError};
pub use event::{Event, EventFields, key_of};
pub use service::Service;

/// An API: its procedures and events under one name.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
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
    /// Creates a contract without procedures and events, of version 1.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, version: 1, description: "", procedures: &[], events: &[], requires: &[] }
    }

    /// Sets the version.
    #[must_use]
    pub const fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Sets the description.
    #[must_use]
    pub const fn with_description(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Sets the procedures.
    #[must_use]
    pub const fn with_procedures(mut self, procedures: &'static [Procedure]) -> Self {
        self.procedures = procedures;
        self
    }

    /// Sets the events.
    #[must_use]
    pub const fn with_events(mut self, events: &'static [EventContract]) -> Self {
        self.events = events;
        self
    }

    /// Sets the required capabilities.
    #[must_use]
    pub const fn with_requires(mut self, requires: &'static [&'static str]) -> Self {
        self.requires = requires;
        self
    }

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
#[non_exhaustive]
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

impl Procedure {
    /// Creates a procedure without parameters, with the schema of its result.
    #[must_use]
    pub const fn new(name: &'static str, response: fn(&mut SchemaGenerator) -> Schema) -> Self {
        Self { name, description: "", parameters: &[], response }
    }

    /// Sets the description.
    #[must_use]
    pub const fn with_description(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Sets the parameters.
    #[must_use]
    pub const fn with_parameters(mut self, parameters: &'static [Parameter]) -> Self {
        self.parameters = parameters;
        self
    }
}

/// An event of an API.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EventContract {
    /// Its name on the bus.
    pub name: &'static str,
    /// Its doc comment.
    pub description: &'static str,
    /// Its fields, in order.
    pub parameters: &'static [Parameter],
    /// The name on the bus of the field whose value is the ordering key: the one that
    /// `#[event(key = "…")]` names.
    pub key: Option<&'static str>,
}

impl EventContract {
    /// Creates an event without fields.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, description: "", parameters: &[], key: None }
    }

    /// Sets the description.
    #[must_use]
    pub const fn with_description(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Sets the fields.
    #[must_use]
    pub const fn with_parameters(mut self, parameters: &'static [Parameter]) -> Self {
        self.parameters = parameters;
        self
    }

    /// Sets the field whose value is the ordering key.
    #[must_use]
    pub const fn with_key(mut self, field: &'static str) -> Self {
        self.key = Some(field);
        self
    }
}

/// A parameter of a procedure, or a field of an event.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
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

impl Parameter {
    /// Creates a required parameter, with the schema of its type.
    #[must_use]
    pub const fn new(name: &'static str, schema: fn(&mut SchemaGenerator) -> Schema) -> Self {
        Self { name, description: "", schema, required: true, default: None }
    }

    /// Sets the description.
    #[must_use]
    pub const fn with_description(mut self, description: &'static str) -> Self {
        self.description = description;
        self
    }

    /// Makes the parameter optional.
    #[must_use]
    pub const fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// Makes the parameter optional, with a default.
    #[must_use]
    pub const fn with_default(mut self, default: fn() -> serde_json::Value) -> Self {
        self.required = false;
        self.default = Some(default);
        self
    }
}
