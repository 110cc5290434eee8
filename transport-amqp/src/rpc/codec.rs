//! Calls as messages: ids and deadlines in properties and headers, arguments in the body.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use lapin::{
    BasicProperties,
    types::{AMQPValue, ShortString},
};
use lightbus_core::{Headers, Name, Result, ReturnPath, RpcMessage, json, time::deadline_after};

use crate::{
    header::{clamp_ms, decode_headers, encode_headers, epoch_ms, filled, int, string, text},
    topology::short,
};

/// The deadline by the caller's clock, in milliseconds since 1970.
const DEADLINE: &str = "lightbus-deadline";

/// The return path, if it is too long for a property.
const RETURN_PATH: &str = "lightbus-return-path";

/// Returns how long a message may live, for RabbitMQ: at most 2³² − 1 ms, 49 days.
pub(crate) fn expiration(left: Duration) -> ShortString {
    left.as_millis().min(u128::from(u32::MAX)).to_string().into()
}

/// Encodes a call. `left` is the time until its deadline.
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
        .with_expiration(expiration(left));
    match ShortString::try_new(call.return_path.as_str()) {
        Ok(path) => properties = properties.with_reply_to(path),
        Err(_) => {
            headers.insert(RETURN_PATH.into(), text(call.return_path.as_str()));
        }
    }
    Ok((properties.with_headers(headers), json::encode_arguments(&call.fields).into()))
}

/// Decodes a call of this API. `tolerance` is how far the caller's clock may differ.
pub(crate) fn decode_call(
    api: &Name,
    properties: &BasicProperties,
    body: &Bytes,
    tolerance: Duration,
) -> Result<RpcMessage> {
    let (id, return_path) = salvage_call(properties)
        .ok_or_else(|| json::malformed("it has no id, or no return path"))?;
    let procedure = filled(properties.kind()).ok_or_else(|| json::malformed("it has no type"))?;
    let table = properties.headers().as_ref();
    let headers = table.map(decode_headers).unwrap_or_default();
    let left = headers
        .get(Headers::TIME_LEFT_MS)
        .and_then(|left| left.parse().ok())
        .or_else(|| properties.expiration().as_ref()?.as_str().parse().ok())
        .map(Duration::from_millis)
        .ok_or_else(|| json::malformed("it has no time limit"))?;
    // It may have waited in the queue, and on its way there, for an unknown time.
    let at_most = table.and_then(|table| int(table, DEADLINE)).map(|deadline| {
        Duration::from_millis(
            u64::try_from(deadline.saturating_sub(epoch_ms(SystemTime::now()))).unwrap_or(0),
        )
        .saturating_add(tolerance)
    });
    let past = table.and_then(|table| int(table, DEADLINE)).is_some_and(|deadline| {
        epoch_ms(SystemTime::now()).saturating_sub(deadline) > clamp_ms(tolerance)
    });
    let left = if past { Duration::ZERO } else { at_most.map_or(left, |most| left.min(most)) };
    Ok(RpcMessage {
        id,
        api: Name::clone(api),
        procedure: procedure.into(),
        fields: json::decode_arguments(body)?,
        headers,
        return_path,
        deadline: deadline_after(left),
    })
}

/// Returns the id and return path of a call, if it has them, to answer it even if it cannot be read.
pub(crate) fn salvage_call(properties: &BasicProperties) -> Option<(Name, ReturnPath)> {
    let id = filled(properties.message_id()).or_else(|| filled(properties.correlation_id()))?;
    let path = match filled(properties.reply_to()) {
        Some(path) => path,
        None => string(properties.headers().as_ref()?, RETURN_PATH)?,
    };
    Some((id.into(), ReturnPath::new(path)))
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use lightbus_core::Arguments;

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
    fn a_call_that_was_delayed_has_no_time_left() {
        let (properties, body) = encode_call(&call(), Duration::from_secs(3)).expect("a message");
        let mut headers = properties.headers().clone().expect("headers");
        let long_ago = epoch_ms(SystemTime::now()) - 31_000;
        headers.insert(DEADLINE.into(), AMQPValue::LongLongInt(long_ago));
        let properties = properties.with_headers(headers);
        let read = decode_call(&"auth".into(), &properties, &body, Duration::from_secs(30))
            .expect("a call");
        assert!(read.deadline <= Instant::now());
    }
}
