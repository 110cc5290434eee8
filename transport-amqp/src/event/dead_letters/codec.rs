//! Dead letters as messages: the event as it was, with the reason in headers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use lightbus_core::{
    Arguments, EventMessage, Name, Result,
    transport::{DeadLetter, GroupSpec},
};

use super::super::codec::{Raw, Read, event_names};
use crate::{
    EventConfig, header,
    publisher::Message,
    topology::{dead_letters_of, short},
};

/// The most bytes of a reason that are kept.
const LONGEST_REASON: usize = 4096;

/// The prefix of the headers of dead letters.
const DEAD: &str = "lightbus-dead-";
/// Headers that the broker adds: where a message was dead-lettered, and how often it was delivered.
const OF_THE_BROKER: [&str; 5] =
    ["x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count"];

const ID: &str = "lightbus-dead-id";
const REASON: &str = "lightbus-dead-reason";
const ATTEMPTS: &str = "lightbus-dead-attempts";
const GROUP: &str = "lightbus-dead-group";
const TIME: &str = "lightbus-dead-time";
const EXCHANGE: &str = "lightbus-dead-exchange";
const ROUTING_KEY: &str = "lightbus-dead-routing-key";

/// Encodes a message as a dead letter of a group.
pub(super) fn dead_letter(
    config: &EventConfig,
    group: &str,
    reason: &str,
    attempts: u32,
    raw: &Raw,
) -> Result<Message> {
    let mut headers = raw.properties.headers().clone().unwrap_or_default();
    headers.insert(ID.into(), header::text(&new_id(raw)));
    headers.insert(REASON.into(), header::text(shortened(reason)));
    headers.insert(ATTEMPTS.into(), AMQPValue::LongLongInt(attempts.into()));
    headers.insert(GROUP.into(), header::text(group));
    let now = header::epoch_ms(SystemTime::now());
    headers.insert(TIME.into(), AMQPValue::LongLongInt(now));
    headers.insert(EXCHANGE.into(), header::text(raw.exchange.as_str()));
    headers.insert(ROUTING_KEY.into(), header::text(raw.key.as_str()));
    Ok(Message {
        exchange: "".into(),
        key: short("the name of a queue", &dead_letters_of(config, group))?,
        mandatory: true,
        properties: raw.properties.clone().with_delivery_mode(2).with_headers(headers),
        body: raw.body.clone(),
    })
}

fn shortened(reason: &str) -> &str {
    if reason.len() <= LONGEST_REASON {
        return reason;
    }
    let end = (0..=LONGEST_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
    &reason[..end]
}

/// Returns an id for a dead letter: its sequence number in this process, then the message's id.
fn new_id(raw: &Raw) -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = micros(SystemTime::now());
    let next = |last: u64| now.max(last + 1);
    let sequence = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
    id_of(sequence.map_or(now, next), &raw.properties)
}

fn id_of(sequence: u64, properties: &BasicProperties) -> String {
    let message = properties.message_id().as_ref().map_or("", ShortString::as_str);
    format!("{sequence}-{message}")
}

fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the sequence number in the id of a dead letter, if it has one.
pub(super) fn sequence(id: &str) -> Option<u64> {
    id.split_once('-')?.0.parse().ok()
}

/// Returns the headers of a message, and the broker's entry about its last dead-lettering.
fn tables(raw: &Raw) -> (Option<&FieldTable>, Option<&FieldTable>) {
    let headers = raw.properties.headers().as_ref();
    let death = match headers.and_then(|headers| headers.inner().get("x-death")) {
        Some(AMQPValue::FieldArray(deaths)) => match deaths.as_slice().first() {
            Some(AMQPValue::FieldTable(death)) => Some(death),
            _ => None,
        },
        _ => None,
    };
    (headers, death)
}

/// Returns the id of a dead letter: the one that it was published with, or one from the time at which the
/// broker dead-lettered it. A message that was put there by hand has its own id.
pub(super) fn id(raw: &Raw) -> Name {
    let (headers, death) = tables(raw);
    let own = headers.and_then(|headers| header::string(headers, ID)).map(Name::from);
    own.unwrap_or_else(|| match death.and_then(died) {
        Some(time) => id_of(micros(time), &raw.properties).into(),
        None => raw.properties.message_id().as_ref().map_or("", ShortString::as_str).into(),
    })
}

fn died(death: &FieldTable) -> Option<SystemTime> {
    let seconds = u64::try_from(header::int(death, "time")?).ok()?;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Returns the routing key with which the event was fired.
fn fired_with(raw: &Raw) -> Option<ShortString> {
    let (headers, death) = tables(raw);
    let own = headers.and_then(|headers| header::string(headers, ROUTING_KEY));
    let of_broker = || match death?.inner().get("routing-keys")? {
        AMQPValue::FieldArray(keys) => match keys.as_slice().first()? {
            AMQPValue::LongString(key) => std::str::from_utf8(key.as_bytes()).ok(),
            _ => None,
        },
        _ => None,
    };
    ShortString::try_new(own.or_else(of_broker)?).ok()
}

/// Decodes a dead letter.
pub(super) fn read(mut raw: Raw, group: &GroupSpec) -> DeadLetter {
    let id = id(&raw);
    if let Some(key) = fired_with(&raw) {
        raw.key = key;
    }
    let (headers, death) = tables(&raw);
    let none = FieldTable::default();
    let headers = headers.unwrap_or(&none);
    let number = |name| header::int(headers, name);
    let attempts = number(ATTEMPTS)
        .or_else(|| number("x-delivery-count"))
        .and_then(|attempts| u32::try_from(attempts).ok())
        .unwrap_or(0);
    // The broker gives its own reason for what it has dead-lettered itself.
    let reason = header::string(headers, REASON).map(str::to_owned).unwrap_or_else(|| {
        let why = header::string(headers, "x-first-death-reason").unwrap_or("unknown reason");
        format!("RabbitMQ dead-lettered it: {why}")
    });
    let names = |api: &str, event: &str| Some((Name::from(api), Name::from(event)));
    let time = number(TIME).and_then(header::time_of).or_else(|| died(death?));
    let event = match raw.read(attempts, names) {
        Read::Event(event) => *event,
        Read::Other | Read::Malformed(_) => unreadable(&raw, attempts),
    };
    DeadLetter {
        id,
        event,
        group: group.clone(),
        reason,
        attempts,
        time: time.unwrap_or(UNIX_EPOCH),
    }
}

/// Encodes the event of a dead letter as it was fired, for the queue of its group.
pub(super) fn revived(raw: Raw, queue: ShortString) -> Message {
    let key = fired_with(&raw).unwrap_or_else(|| raw.key.clone());
    let of_death = |name: &str| {
        name.starts_with(DEAD) || OF_THE_BROKER.iter().any(|prefix| name.starts_with(prefix))
    };
    let mut headers = FieldTable::default();
    let all = raw.properties.headers().iter().flatten();
    for (name, value) in all.filter(|(name, _)| !of_death(name.as_str())) {
        headers.insert(name.clone(), value.clone());
    }
    // Published to the queue itself, it loses its routing key, which may be all that names it.
    if let Some((api, event)) = event_names(&raw.properties, key.as_str()) {
        headers.insert(header::API.into(), header::text(api));
        headers.insert(header::EVENT.into(), header::text(event));
    }
    Message {
        exchange: "".into(),
        key: queue,
        mandatory: true,
        properties: raw.properties.with_delivery_mode(2).with_headers(headers),
        body: raw.body,
    }
}

/// Decodes what can be decoded of a malformed event.
fn unreadable(raw: &Raw, attempt: u32) -> EventMessage {
    let (api, event) = event_names(&raw.properties, raw.key.as_str()).unwrap_or_default();
    let id = raw.properties.message_id().as_ref().map(|id| Name::from(id.as_str()));
    let id = id.unwrap_or_else(|| Name::from(""));
    EventMessage {
        native_id: Some(Name::clone(&id)),
        attempt,
        ..EventMessage::new(id, api, event, 0, Arguments::new())
    }
}
