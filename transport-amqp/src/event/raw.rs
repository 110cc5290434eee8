//! An event as the broker delivers it, and what it turns out to be.

use bytes::Bytes;
use lapin::{BasicProperties, message::Delivery, types::ShortString};
use lightbus_core::{EventMessage, Name, transport::EventSelector};

use crate::wire;

/// A message, kept until it is known what becomes of it.
pub(crate) struct Raw {
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// What a message turned out to be.
pub(super) enum Read {
    /// An event that was asked for.
    Event(Box<EventMessage>),
    /// One that was not.
    Other,
    /// It cannot be read, for this reason.
    Malformed(String),
}

impl Raw {
    pub(crate) fn new(delivery: Delivery) -> Self {
        Self {
            exchange: delivery.exchange,
            key: delivery.routing_key,
            properties: delivery.properties,
            body: delivery.data.into(),
        }
    }

    /// Which delivery it is, counted from 1; 0 where the queue does not count.
    pub(super) fn attempt(&self, counts: bool) -> u32 {
        if !counts {
            return 0;
        }
        let headers = self.properties.headers().as_ref();
        let before = headers.and_then(|table| wire::int(table, "x-delivery-count")).unwrap_or(0);
        u32::try_from(before).unwrap_or(0).saturating_add(1)
    }

    /// Reads the message. `select` gives the names as the reader knows them, if it wants the event.
    pub(super) fn read(
        &self,
        attempt: u32,
        select: impl FnOnce(&str, &str) -> Option<(Name, Name)>,
    ) -> Read {
        let Some((api, event)) = wire::event_names(&self.properties, self.key.as_str()) else {
            return Read::Malformed("it does not say which event it is".into());
        };
        let Some(names) = select(api, event) else { return Read::Other };
        match wire::decode_event(names, &self.properties, &self.body, attempt) {
            Ok(event) => Read::Event(Box::new(event)),
            Err(error) => Read::Malformed(reason(&error)),
        }
    }
}

/// What is wrong, with the place where it is.
fn reason(error: &lightbus_core::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The names of an event as one of the selectors has them: shared, not copied.
pub(super) fn wanted(events: &[EventSelector], api: &str, event: &str) -> Option<(Name, Name)> {
    let selector = events.iter().find(|selector| selector.selects(api, event))?;
    let event = match &selector.event {
        Some(name) => Name::clone(name),
        None => Name::from(event),
    };
    Some((Name::clone(&selector.api), event))
}
