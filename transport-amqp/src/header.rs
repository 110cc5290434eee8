//! The headers and times of messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::types::{AMQPValue, FieldTable, ShortString};
use lightbus_core::Headers;

/// The prefix of lightbus' own headers.
const OWN: &str = "lightbus-";
/// The API of an event.
pub(crate) const API: &str = "lightbus-api";
/// The event.
pub(crate) const EVENT: &str = "lightbus-event";
/// The version of an event's API.
pub(crate) const VERSION: &str = "lightbus-version";
/// The key of an event.
pub(crate) const KEY: &str = "lightbus-key";
/// When a message was sent, in milliseconds since 1970.
pub(crate) const TIME: &str = "lightbus-time";
/// The time to live of a schema, in milliseconds.
pub(crate) const TTL: &str = "lightbus-ttl";
/// The name of a mark in a stream.
pub(crate) const MARK: &str = "lightbus-mark";

/// Returns a time in milliseconds since 1970.
pub(crate) fn epoch_ms(time: SystemTime) -> i64 {
    clamp_ms(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Returns the time this many milliseconds after 1970, if it can be represented.
pub(crate) fn time_of(ms: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(ms).ok()?))
}

pub(crate) fn clamp_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// Returns a header that is a string.
pub(crate) fn string<'a>(table: &'a FieldTable, name: &str) -> Option<&'a str> {
    match table.inner().get(name)? {
        AMQPValue::LongString(value) => std::str::from_utf8(value.as_bytes()).ok(),
        AMQPValue::ShortString(value) => Some(value.as_str()),
        _ => None,
    }
}

/// Returns a header that is an integer of any size.
pub(crate) fn int(table: &FieldTable, name: &str) -> Option<i64> {
    match table.inner().get(name)? {
        AMQPValue::LongLongInt(number) => Some(*number),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        AMQPValue::Timestamp(number) => i64::try_from(*number).ok(),
        _ => None,
    }
}

pub(crate) fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

pub(crate) fn filled(value: &Option<ShortString>) -> Option<&str> {
    value.as_ref().map(ShortString::as_str).filter(|text| !text.is_empty())
}

pub(crate) fn encode_headers(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with(OWN)) {
        if let Ok(name) = ShortString::try_new(&**name) {
            table.insert(name, text(value));
        }
    }
    table
}

/// Returns the headers that are strings, except lightbus' own and the broker's.
pub(crate) fn decode_headers(table: &FieldTable) -> Headers {
    const BROKERS: [&str; 2] = ["x-first-death-", "x-last-death-"];
    let mut headers = Headers::new();
    let others = table.inner().iter().filter(|(name, _)| {
        let name = name.as_str();
        !name.starts_with(OWN) && !BROKERS.iter().any(|prefix| name.starts_with(prefix))
    });
    for (name, _) in others.take(Headers::MAX_COUNT) {
        if let Some(value) = string(table, name.as_str()) {
            headers.set(name.as_str(), value);
        }
    }
    headers
}
