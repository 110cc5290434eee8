//! Bodies of messages: arguments as one JSON object.
//!
//! A body is written around arguments that are encoded already, and read into slices of it, so that
//! no argument is parsed or copied.

use std::fmt;

use bytes::Bytes;
use lightbus_core::{Arguments, Error, ErrorKind, Name, Result};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// How much of a message that cannot be read is shown.
const EXCERPT: usize = 200;

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

pub(crate) fn slice(body: &Bytes, value: &RawValue) -> Bytes {
    body.slice_ref(value.get().as_bytes())
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T> {
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
