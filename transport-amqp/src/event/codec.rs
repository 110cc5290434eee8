//! Events as messages: names and times in properties and headers, arguments in the body.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, ShortString},
};
use lightbus_core::{EventMessage, Name, Result, json, transport::EventSelector};

use crate::{
    header::{self, decode_headers, encode_headers, epoch_ms, filled, int, string, text, time_of},
    topology::short,
};

/// A message as it was delivered, kept until it is settled.
pub(crate) struct Raw {
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

/// A decoded message.
pub(super) enum Read {
    /// An event that is selected.
    Event(Box<EventMessage>),
    /// An event that is not.
    Other,
    /// Why it cannot be read.
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

    /// Returns the number of the delivery, from 1; 0 if the queue does not count.
    pub(super) fn attempt(&self, counts: bool) -> u32 {
        if !counts {
            return 0;
        }
        let headers = self.properties.headers().as_ref();
        let before = headers.and_then(|table| int(table, "x-delivery-count")).unwrap_or(0);
        u32::try_from(before).unwrap_or(0).saturating_add(1)
    }

    /// Decodes the message. `select` returns the names of a selected event.
    pub(super) fn read(
        &self,
        attempt: u32,
        select: impl FnOnce(&str, &str) -> Option<(Name, Name)>,
    ) -> Read {
        let Some((api, event)) = event_names(&self.properties, self.key.as_str()) else {
            return Read::Malformed("it does not name its event".into());
        };
        let Some(names) = select(api, event) else { return Read::Other };
        match decode_event(names, &self.properties, &self.body, attempt) {
            Ok(event) => Read::Event(Box::new(event)),
            Err(error) => Read::Malformed(reason(&error)),
        }
    }
}

/// Returns an error with its cause, which has the position.
fn reason(error: &lightbus_core::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Returns the names of a selected event, sharing the selector's.
pub(super) fn wanted(events: &[EventSelector], api: &str, event: &str) -> Option<(Name, Name)> {
    let selector = events.iter().find(|selector| selector.selects(api, event))?;
    let event = match &selector.event {
        Some(name) => Name::clone(name),
        None => Name::from(event),
    };
    Some((Name::clone(&selector.api), event))
}

/// Encodes an event that is sent at `now`.
pub(super) fn encode_event(
    event: &EventMessage,
    now: SystemTime,
) -> Result<(BasicProperties, Bytes)> {
    let mut headers = encode_headers(&event.headers);
    headers.insert(header::API.into(), text(&event.api));
    headers.insert(header::EVENT.into(), text(&event.event));
    headers.insert(header::VERSION.into(), AMQPValue::LongLongInt(event.version.into()));
    let ms = epoch_ms(now);
    headers.insert(header::TIME.into(), AMQPValue::LongLongInt(ms));
    if let Some(key) = &event.key {
        headers.insert(header::KEY.into(), text(key));
    }
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_message_id(short("the id of an event", &event.id)?)
        .with_timestamp(u64::try_from(ms / 1000).unwrap_or(0))
        .with_headers(headers);
    Ok((properties, json::encode_arguments(&event.fields).into()))
}

/// Returns the API and event names, from the headers or else from the routing key.
pub(super) fn event_names<'a>(
    properties: &'a BasicProperties,
    routing_key: &'a str,
) -> Option<(&'a str, &'a str)> {
    let table = properties.headers().as_ref();
    let named = |name| table.and_then(|table| string(table, name));
    match (named(header::API), named(header::EVENT)) {
        (Some(api), Some(event)) => Some((api, event)),
        _ => routing_key.rsplit_once('.'),
    }
    .filter(|(api, event)| !api.is_empty() && !event.is_empty())
}

/// Decodes an event with these names.
pub(super) fn decode_event(
    (api, event): (Name, Name),
    properties: &BasicProperties,
    body: &Bytes,
    attempt: u32,
) -> Result<EventMessage> {
    let id = filled(properties.message_id()).ok_or_else(|| json::malformed("it has no id"))?;
    let id = Name::from(id);
    let table = properties.headers().as_ref();
    let number = |name| table.and_then(|table| int(table, name));
    let version = number(header::VERSION).map_or(Ok(1), u32::try_from);
    Ok(EventMessage {
        native_id: Some(Name::clone(&id)),
        id,
        api,
        event,
        version: version.map_err(|_| json::malformed("its version is not a valid number"))?,
        fields: json::decode_arguments(body)?,
        headers: table.map(decode_headers).unwrap_or_default(),
        key: table.and_then(|table| string(table, header::KEY)).map(Name::from),
        time: number(header::TIME).and_then(time_of).or_else(|| {
            properties.timestamp().and_then(|seconds| {
                UNIX_EPOCH.checked_add(Duration::from_secs(seconds.min(u64::from(u32::MAX) * 4)))
            })
        }),
        attempt,
    })
}
