//! Calls, results and events as messages: names and times in properties and headers, arguments in
//! the body.
//!
//! A body is written around arguments that are encoded already, and read into slices of it, so that
//! no argument is parsed or copied.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use lightbus_core::{
    Arguments, Error, ErrorKind, EventMessage, Headers, Name, RemoteError, Result, ResultMessage,
    ReturnPath, RpcMessage,
};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::topology::short;

/// What a return path on RabbitMQ begins with; the rest names a channel.
pub(crate) const RETURN_PREFIX: &str = "amq.rabbitmq.reply-to.";

/// Headers of our own begin with this.
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
/// When the caller gives up, likewise.
const DEADLINE: &str = "lightbus-deadline";
/// A return path that is too long to be a property.
const RETURN_PATH: &str = "lightbus-return-path";
/// How long a schema lives, in milliseconds.
pub(crate) const TTL: &str = "lightbus-ttl";
/// Marks a place in a stream, and is nothing else.
pub(crate) const MARK: &str = "lightbus-mark";

/// The type of a result that is an error.
const ERROR: &str = "error";
/// More headers than these are left out: they are few by nature, and searched one by one.
const MOST_HEADERS: usize = 64;
/// How much of a message that cannot be read is shown.
const EXCERPT: usize = 200;
/// A caller that waits for years is of no interest to the clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The properties and the body of a call. `left` is the time until its deadline.
pub(crate) fn encode_call(call: &RpcMessage, left: Duration) -> Result<(BasicProperties, Bytes)> {
    let mut headers = encode_headers(&call.headers);
    let millis = left.as_millis();
    headers.insert(Headers::TIME_LEFT_MS.into(), text(&millis.to_string()));
    let deadline = epoch_ms(SystemTime::now()).saturating_add(clamp_ms(left));
    headers.insert(DEADLINE.into(), AMQPValue::LongLongInt(deadline));
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id(short("the id of a call", &call.id)?)
        .with_correlation_id(short("the id of a call", &call.id)?)
        .with_type(short("the name of a procedure", &call.procedure)?)
        .with_expiration(millis.min(u128::from(u32::MAX)).to_string().into());
    match ShortString::try_new(call.return_path.as_str()) {
        Ok(path) => properties = properties.with_reply_to(path),
        Err(_) => {
            headers.insert(RETURN_PATH.into(), text(call.return_path.as_str()));
        }
    }
    Ok((properties.with_headers(headers), encode_fields(&call.fields)))
}

/// Reads a call of this API. `tolerance` is by how much the caller's clock may differ.
pub(crate) fn decode_call(
    api: &Name,
    properties: &BasicProperties,
    body: &Bytes,
    tolerance: Duration,
) -> Result<RpcMessage> {
    let (id, return_path) =
        salvage_call(properties).ok_or_else(|| malformed("it has no id, or no return path"))?;
    let procedure = filled(properties.kind()).ok_or_else(|| malformed("it has no type"))?;
    let table = properties.headers().as_ref();
    let headers = table.map(decode_headers).unwrap_or_default();
    let left = headers
        .get(Headers::TIME_LEFT_MS)
        .and_then(|left| left.parse().ok())
        .or_else(|| properties.expiration().as_ref()?.as_str().parse().ok())
        .map(Duration::from_millis)
        .ok_or_else(|| malformed("it does not say how long its caller waits"))?;
    // It may have waited in the queue, and on its way there, for longer than anybody can tell.
    let at_most = table.and_then(|table| int(table, DEADLINE)).map(|deadline| {
        Duration::from_millis(
            u64::try_from(deadline.saturating_sub(epoch_ms(SystemTime::now()))).unwrap_or(0),
        ) + tolerance
    });
    let past = table.and_then(|table| int(table, DEADLINE)).is_some_and(|deadline| {
        epoch_ms(SystemTime::now()).saturating_sub(deadline) > clamp_ms(tolerance)
    });
    let left = if past { Duration::ZERO } else { at_most.map_or(left, |most| left.min(most)) };
    Ok(RpcMessage {
        id,
        api: Name::clone(api),
        procedure: procedure.into(),
        fields: decode_fields(body)?,
        headers,
        return_path,
        deadline: Instant::now() + left.min(LONGEST),
    })
}

/// What of a call that cannot be read is enough to answer it: its id and its return path.
pub(crate) fn salvage_call(properties: &BasicProperties) -> Option<(Name, ReturnPath)> {
    let id = filled(properties.message_id()).or_else(|| filled(properties.correlation_id()))?;
    let path = match filled(properties.reply_to()) {
        Some(path) => path,
        None => string(properties.headers().as_ref()?, RETURN_PATH)?,
    };
    Some((id.into(), ReturnPath::new(path)))
}

/// An error as the body of a result.
#[derive(Serialize, Deserialize)]
struct ErrorDocument<'a> {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(borrow, skip_serializing_if = "Option::is_none")]
    detail: Option<&'a RawValue>,
}

/// The properties and the body of a result.
pub(crate) fn encode_result(result: &ResultMessage) -> Result<(BasicProperties, Bytes)> {
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_message_id(short("the id of a result", &result.id)?)
        .with_correlation_id(short("the id of a call", &result.rpc_id)?);
    if !result.headers.is_empty() {
        properties = properties.with_headers(encode_headers(&result.headers));
    }
    match &result.body {
        Ok(value) => Ok((properties, value.clone())),
        Err(error) => {
            let document = ErrorDocument {
                message: error.message.clone(),
                trace: error.trace.clone(),
                name: error.name.as_deref().map(str::to_owned),
                // What is not JSON would spoil the rest.
                detail: error
                    .detail
                    .as_deref()
                    .and_then(|detail| serde_json::from_slice(detail).ok()),
            };
            let body = lightbus_core::codec::encode(&document)?;
            Ok((properties.with_type(ERROR.into()), body))
        }
    }
}

/// Reads a result.
pub(crate) fn decode_result(properties: &BasicProperties, body: Bytes) -> Result<ResultMessage> {
    let rpc_id = filled(properties.correlation_id())
        .ok_or_else(|| malformed("it does not say which call it answers"))?;
    let headers = properties.headers().as_ref().map(decode_headers).unwrap_or_default();
    let is_error = filled(properties.kind()) == Some(ERROR);
    let body = if is_error {
        let document: ErrorDocument<'_> = parse(&body)?;
        Err(RemoteError {
            message: document.message,
            trace: document.trace,
            name: document.name.map(Name::from),
            detail: document.detail.map(|detail| slice(&body, detail)),
        })
    } else {
        Ok(body)
    };
    Ok(ResultMessage {
        id: filled(properties.message_id()).unwrap_or_default().into(),
        rpc_id: rpc_id.into(),
        headers,
        body,
    })
}

/// The properties and the body of an event, sent at this moment.
pub(crate) fn encode_event(
    event: &EventMessage,
    now: SystemTime,
) -> Result<(BasicProperties, Bytes)> {
    let mut headers = encode_headers(&event.headers);
    headers.insert(API.into(), text(&event.api));
    headers.insert(EVENT.into(), text(&event.event));
    headers.insert(VERSION.into(), AMQPValue::LongLongInt(event.version.into()));
    let ms = epoch_ms(now);
    headers.insert(TIME.into(), AMQPValue::LongLongInt(ms));
    if let Some(key) = &event.key {
        headers.insert(KEY.into(), text(key));
    }
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_message_id(short("the id of an event", &event.id)?)
        .with_timestamp(u64::try_from(ms / 1000).unwrap_or(0))
        .with_headers(headers);
    Ok((properties, encode_fields(&event.fields)))
}

/// Names of an event, from its headers or else from its routing key.
pub(crate) fn event_names<'a>(
    properties: &'a BasicProperties,
    routing_key: &'a str,
) -> Option<(&'a str, &'a str)> {
    let table = properties.headers().as_ref();
    let named = |name| table.and_then(|table| string(table, name));
    match (named(API), named(EVENT)) {
        (Some(api), Some(event)) => Some((api, event)),
        _ => routing_key.rsplit_once('.'),
    }
    .filter(|(api, event)| !api.is_empty() && !event.is_empty())
}

/// Reads an event. `names` gives the names as the listener knows them.
pub(crate) fn decode_event(
    (api, event): (Name, Name),
    properties: &BasicProperties,
    body: &Bytes,
    attempt: u32,
) -> Result<EventMessage> {
    let id = filled(properties.message_id()).ok_or_else(|| malformed("it has no id"))?;
    let id = Name::from(id);
    let table = properties.headers().as_ref();
    let number = |name| table.and_then(|table| int(table, name));
    let version = number(VERSION).map_or(Ok(1), u32::try_from);
    Ok(EventMessage {
        native_id: Some(Name::clone(&id)),
        id,
        api,
        event,
        version: version.map_err(|_| malformed("its version is no such number"))?,
        fields: decode_fields(body)?,
        headers: table.map(decode_headers).unwrap_or_default(),
        key: table.and_then(|table| string(table, KEY)).map(Name::from),
        time: number(TIME).and_then(time_of).or_else(|| {
            properties.timestamp().map(|seconds| {
                UNIX_EPOCH + Duration::from_secs(seconds.min(u64::from(u32::MAX) * 4))
            })
        }),
        attempt,
    })
}

/// A moment in milliseconds since 1970.
pub(crate) fn epoch_ms(time: SystemTime) -> i64 {
    clamp_ms(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The moment that is this many milliseconds after 1970, if it is one.
pub(crate) fn time_of(ms: i64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(u64::try_from(ms).ok()?))
}

pub(crate) fn clamp_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A header that is a text.
pub(crate) fn string<'a>(table: &'a FieldTable, name: &str) -> Option<&'a str> {
    match table.inner().get(name)? {
        AMQPValue::LongString(value) => std::str::from_utf8(value.as_bytes()).ok(),
        AMQPValue::ShortString(value) => Some(value.as_str()),
        _ => None,
    }
}

/// A header that is a number, of whatever size.
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

fn filled(value: &Option<ShortString>) -> Option<&str> {
    value.as_ref().map(ShortString::as_str).filter(|text| !text.is_empty())
}

fn encode_headers(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with(OWN)) {
        if let Ok(name) = ShortString::try_new(&**name) {
            table.insert(name, text(value));
        }
    }
    table
}

/// All that are texts, and neither ours nor the broker's.
fn decode_headers(table: &FieldTable) -> Headers {
    const BROKERS: [&str; 2] = ["x-first-death-", "x-last-death-"];
    let mut headers = Headers::new();
    let others = table.inner().iter().filter(|(name, _)| {
        let name = name.as_str();
        !name.starts_with(OWN) && !BROKERS.iter().any(|prefix| name.starts_with(prefix))
    });
    for (name, _) in others.take(MOST_HEADERS) {
        if let Some(value) = string(table, name.as_str()) {
            headers.set(name.as_str(), value);
        }
    }
    headers
}

/// Writes arguments as an object.
pub(crate) fn encode_fields(fields: &Arguments) -> Bytes {
    let mut out = Vec::with_capacity(2 + fields.size() + fields.len() * 4);
    out.push(b'{');
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json_string(&mut out, name);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
    out.into()
}

/// Reads arguments from an object, in their order.
pub(crate) fn decode_fields(body: &Bytes) -> Result<Arguments> {
    let pairs: Pairs<'_> = parse(body)?;
    Ok(pairs.0.into_iter().map(|(name, value)| (Name::from(name), slice(body, value))).collect())
}

fn json_string(out: &mut Vec<u8>, value: &str) {
    if value.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    } else if serde_json::to_writer(&mut *out, value).is_err() {
        // Writing to memory does not fail.
        out.extend_from_slice(b"\"\"");
    }
}

fn slice(body: &Bytes, value: &RawValue) -> Bytes {
    body.slice_ref(value.get().as_bytes())
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|error| malformed("its body is not as it must be").because(error))
}

/// Name and value of each argument, where they stand.
struct Pairs<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of arguments")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<'de>, A::Error> {
                let mut pairs = Vec::with_capacity(8);
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// The error of a message that is not what it must be.
pub(crate) fn malformed(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, reason)
}

/// The beginning of a message, for people.
pub(crate) fn excerpt(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(&raw[..raw.len().min(EXCERPT)]).into_owned();
    if raw.len() > EXCERPT { format!("{text}…") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> RpcMessage {
        RpcMessage {
            id: "1".into(),
            api: "auth".into(),
            procedure: "check".into(),
            fields: Arguments::from_iter([(Name::from("a\"b"), Bytes::from_static(b"[1]"))]),
            headers: Headers::new(),
            return_path: ReturnPath::new("x".repeat(300)),
            deadline: Instant::now(),
        }
    }

    #[test]
    fn a_long_return_path_travels_in_a_header() {
        let (properties, body) = encode_call(&call(), Duration::from_secs(3)).expect("a message");
        let read = decode_call(&"auth".into(), &properties, &body, Duration::from_secs(30))
            .expect("a call");
        assert_eq!(read.return_path, call().return_path);
        assert_eq!(read.fields, call().fields);
    }

    #[test]
    fn a_call_that_was_long_on_its_way_has_no_time_left() {
        let (properties, body) = encode_call(&call(), Duration::from_secs(3)).expect("a message");
        let mut headers = properties.headers().clone().expect("headers");
        let long_ago = epoch_ms(SystemTime::now()) - 31_000;
        headers.insert(DEADLINE.into(), AMQPValue::LongLongInt(long_ago));
        let properties = properties.with_headers(headers);
        let read = decode_call(&"auth".into(), &properties, &body, Duration::from_secs(30))
            .expect("a call");
        assert!(read.deadline <= Instant::now());
    }

    #[test]
    fn what_is_no_object_of_arguments_is_refused() {
        for body in ["", "{", "[]", "{\"a\":}", "{\"a\":1} x", "null"] {
            let body = Bytes::from(body);
            assert_eq!(
                decode_fields(&body).expect_err("it is malformed").kind(),
                ErrorKind::Malformed
            );
        }
    }

    #[test]
    fn a_long_message_is_shown_in_part() {
        assert_eq!(excerpt(b"short"), "short");
        assert!(excerpt(&[b'x'; 500]).ends_with('…'));
    }
}
