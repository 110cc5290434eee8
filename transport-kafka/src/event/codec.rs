//! Events as records: arguments in the value, the event's key as the key, everything else in headers.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use lightbus_core::{Arguments, EventMessage, Name, json, transport::EventSelector};
use rdkafka::{Message, message::OwnedHeaders};

use crate::{
    header::{self, Found},
    producer::{Outgoing, Placed},
    reader::time_of,
};

const OWN: [&str; 7] = [
    header::ID,
    header::API,
    header::EVENT,
    header::VERSION,
    header::SENT,
    header::ONLY_GROUP,
    header::ORIGIN,
];

/// Encodes an event.
pub(super) fn outgoing(topic: &Name, event: &EventMessage) -> Outgoing {
    let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let mut headers = OwnedHeaders::new_with_capacity(8);
    for (name, value) in [
        (header::ID, &*event.id),
        (header::API, &*event.api),
        (header::EVENT, &*event.event),
        (header::VERSION, &*event.version.to_string()),
        (header::SENT, &*sent.to_string()),
    ] {
        headers = header::add(headers, name, value);
    }
    Outgoing {
        topic: Name::clone(topic),
        partition: None,
        key: event.key.clone(),
        payload: Some(json::encode_arguments(&event.fields)),
        headers: Some(header::add_all(headers, &event.headers, "")),
    }
}

/// Returns the native id of an event: topic, partition and offset.
pub(super) fn native_id(topic: &str, placed: Placed) -> Name {
    format!("{topic}/{}/{}", placed.partition, placed.offset).into()
}

/// What a record turned out to be.
pub(super) enum Read {
    /// An event that is selected.
    Event(Box<EventMessage>),
    /// An event that is not.
    Other,
    /// Why it cannot be read.
    Malformed(String),
}

/// Decodes an event, if a selector selects it: for a group, or for the history (`None`).
pub(super) fn read<M: Message>(
    record: &M,
    selectors: &[EventSelector],
    group: Option<&str>,
) -> Read {
    let found = Found::read(record, OWN);
    let only = found.get(header::ONLY_GROUP);
    if only.is_some() && only != group {
        // Requeued for another group. The history has it at its original place.
        return Read::Other;
    }
    let names =
        || -> Result<_, String> { Ok((found.need(header::API)?, found.need(header::EVENT)?)) };
    let (api, event) = match names() {
        Ok(names) => names,
        Err(reason) => return Read::Malformed(reason),
    };
    let Some((api, event)) = wanted(selectors, api, event) else { return Read::Other };
    let id = match found.need(header::ID) {
        Ok(id) => Name::from(id),
        Err(reason) => return Read::Malformed(reason),
    };
    let version = found.get(header::VERSION).unwrap_or("1");
    let Ok(version) = version.parse() else {
        return Read::Malformed(format!("the version `{version}` is not a whole number"));
    };
    let payload = Bytes::copy_from_slice(record.payload().unwrap_or_default());
    let fields = match json::decode_arguments(&payload) {
        Ok(fields) => fields,
        Err(error) => return Read::Malformed(error.message().to_owned()),
    };
    let placed = Placed { partition: record.partition(), offset: record.offset() };
    let origin = only.and_then(|_| found.get(header::ORIGIN)).map(Name::from);
    Read::Event(Box::new(EventMessage {
        id,
        api,
        event,
        version,
        fields,
        headers: found.others,
        key: key(record),
        native_id: origin.or_else(|| Some(native_id(record.topic(), placed))),
        time: Some(time_of(record)),
        // Kafka does not count deliveries; a member of a group does, when it hands the event over.
        attempt: 0,
    }))
}

/// Decodes what can be decoded of a malformed event.
pub(super) fn unreadable<M: Message>(record: &M) -> EventMessage {
    let found = Found::read(record, OWN);
    let text = |name| found.get(name).unwrap_or_default();
    let payload = Bytes::copy_from_slice(record.payload().unwrap_or_default());
    let fields = json::decode_arguments(&payload).unwrap_or_else(|_| Arguments::new());
    let version = text(header::VERSION).parse().unwrap_or(0);
    EventMessage {
        key: key(record),
        time: Some(time_of(record)),
        ..EventMessage::new(
            text(header::ID),
            text(header::API),
            text(header::EVENT),
            version,
            fields,
        )
    }
}

/// Returns when the event was sent, in microseconds, or 0: orders events of one millisecond.
pub(super) fn sent_at<M: Message>(record: &M) -> u64 {
    let found = Found::read(record, [header::SENT]);
    found.get(header::SENT).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn key<M: Message>(record: &M) -> Option<Name> {
    record.key().and_then(|key| std::str::from_utf8(key).ok()).map(Name::from)
}

/// Returns the names of a selected event, sharing the selector's.
fn wanted(selectors: &[EventSelector], api: &str, event: &str) -> Option<(Name, Name)> {
    let selector = selectors.iter().find(|selector| selector.selects(api, event))?;
    let event = match &selector.event {
        Some(event) => Name::clone(event),
        None => Name::from(event),
    };
    Some((Name::clone(&selector.api), event))
}
