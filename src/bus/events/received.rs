//! What a typed handler receives.

use std::{fmt, ops::Deref, sync::Arc, time::SystemTime};

use lightbus_core::{EventMessage, Result, transport::EventSelector};

use crate::contract::{Event, EventFields, Parameter};

/// The argument of a typed handler: an event, or an event with its metadata, [`Received<E>`].
pub trait FromEvent: Sized + Send + 'static {
    /// Returns which event to listen to.
    fn selector() -> EventSelector;

    /// Returns the fields of the event.
    fn fields() -> &'static [Parameter];

    /// Returns the name of the field that is the event's ordering key.
    fn key() -> Option<&'static str>;

    /// Decodes a received event.
    ///
    /// # Errors
    ///
    /// [`Invalid`](lightbus_core::ErrorKind::Invalid) if the message does not match the type.
    fn from_message(message: &Arc<EventMessage>) -> Result<Self>;
}

impl<E: Event> FromEvent for E {
    fn selector() -> EventSelector {
        EventSelector::one(E::api().name, E::CONTRACT.name)
    }

    fn fields() -> &'static [Parameter] {
        E::CONTRACT.parameters
    }

    fn key() -> Option<&'static str> {
        E::CONTRACT.key
    }

    fn from_message(message: &Arc<EventMessage>) -> Result<Self> {
        <E as EventFields>::decode(&message.fields)
    }
}

/// An event with its metadata. Dereferences to the event.
pub struct Received<E> {
    event: E,
    message: Arc<EventMessage>,
}

impl<E> Received<E> {
    /// Returns the event without its metadata.
    pub fn into_inner(self) -> E {
        self.event
    }

    /// Returns the event's id. It is the same on every delivery, so a handler can use it to detect
    /// duplicates.
    pub fn id(&self) -> &str {
        &self.message.id
    }

    /// Returns the broker's own id of the event, if the transport provides it.
    pub fn native_id(&self) -> Option<&str> {
        self.message.native_id.as_deref()
    }

    /// Returns when the broker stored the event, if the transport provides it.
    pub fn time(&self) -> Option<SystemTime> {
        self.message.time
    }

    /// Returns the version of the API that fired the event.
    pub fn version(&self) -> u32 {
        self.message.version
    }

    /// Returns the whole message.
    pub fn message(&self) -> &EventMessage {
        &self.message
    }
}

impl<E: Event> FromEvent for Received<E> {
    fn selector() -> EventSelector {
        <E as FromEvent>::selector()
    }

    fn fields() -> &'static [Parameter] {
        <E as FromEvent>::fields()
    }

    fn key() -> Option<&'static str> {
        <E as FromEvent>::key()
    }

    fn from_message(message: &Arc<EventMessage>) -> Result<Self> {
        Ok(Self { event: E::from_message(message)?, message: Arc::clone(message) })
    }
}

impl<E> Deref for Received<E> {
    type Target = E;

    fn deref(&self) -> &E {
        &self.event
    }
}

impl<E: fmt::Debug> fmt::Debug for Received<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received")
            .field("id", &self.message.id)
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}
