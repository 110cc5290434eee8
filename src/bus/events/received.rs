//! An event in a handler's hands.

use std::{fmt, ops::Deref, sync::Arc, time::SystemTime};

use lightbus_core::{EventMessage, Result, transport::EventSelector};

use crate::contract::{Event, EventFields, Parameter};

/// What a typed handler can take: an event, or an event with what is known about it,
/// [`Received<E>`].
pub trait FromEvent: Sized + Send + 'static {
    /// The event to listen to.
    fn selector() -> EventSelector;

    /// The fields that the event has.
    fn fields() -> &'static [Parameter];

    /// The field whose value keeps events in order: those of one value are handled one after the
    /// other.
    fn key() -> Option<&'static str>;

    /// Reads an event that came.
    ///
    /// # Errors
    ///
    /// [`Invalid`](lightbus_core::ErrorKind::Invalid) if it is not what the type expects.
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
        E::KEY
    }

    fn from_message(message: &Arc<EventMessage>) -> Result<Self> {
        <E as EventFields>::decode(&message.fields)
    }
}

/// An event with what is known about it. Dereferences to the event.
pub struct Received<E> {
    event: E,
    message: Arc<EventMessage>,
}

impl<E> Received<E> {
    /// The event alone.
    pub fn into_inner(self) -> E {
        self.event
    }

    /// The event's id: the same on every delivery, so that a handler can tell that it has seen it.
    pub fn id(&self) -> &str {
        &self.message.id
    }

    /// What the broker calls the event, where it tells.
    pub fn native_id(&self) -> Option<&str> {
        self.message.native_id.as_deref()
    }

    /// When the broker took the event, where it tells.
    pub fn time(&self) -> Option<SystemTime> {
        self.message.time
    }

    /// The version of the API that fired it.
    pub fn version(&self) -> u32 {
        self.message.version
    }

    /// The whole message.
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
