//! What an event's type offers.

use lightbus_core::{Arguments, Name, Result};

use super::{Contract, EventContract};

/// The fields of an event: written by `#[derive(Event)]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event",
    label = "not an event",
    note = "derive it with `#[derive(lightbus::Event)]`"
)]
pub trait EventFields: Sized + Send + 'static {
    /// The event's name, description and parameters.
    const CONTRACT: EventContract;

    /// The field that `#[event(key = "…")]` names, by its name on the bus.
    const KEY: Option<&'static str> = None;

    /// Encodes each field, once.
    ///
    /// # Errors
    ///
    /// [`Invalid`](lightbus_core::ErrorKind::Invalid) with the field's name, if a value has no JSON
    /// form.
    fn encode(&self) -> Result<Arguments>;

    /// Reads the fields of an event that came. Fields that the type does not know are ignored, so
    /// that an event may grow without breaking its listeners.
    ///
    /// # Errors
    ///
    /// [`Invalid`](lightbus_core::ErrorKind::Invalid) with the field's name, if one is missing or of
    /// another type.
    fn decode(fields: &Arguments) -> Result<Self>;

    /// The value of the field that `#[event(key = "…")]` names, as text: events of one key stay in order.
    fn key(&self) -> Option<Name>;
}

/// An event of an API: `#[api(events(…))]` writes it for each event that it lists.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an event of any API",
    label = "not listed by an API",
    note = "derive it with `#[derive(lightbus::Event)]`, and list it in `#[lightbus::api(name = \"…\", events({Self}))]`"
)]
pub trait Event: EventFields {
    /// The API that the event belongs to.
    fn api() -> &'static Contract;
}
