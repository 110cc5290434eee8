//! What the JSON forms of calls, results and events have in common.

use std::{borrow::Cow, fmt, time::Duration};

use bytes::Bytes;
use lightbus_core::{Error, ErrorKind, Headers, Name, Result};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// More headers than these are left out: they are few by nature, and searched one by one.
const MOST_HEADERS: usize = 64;
/// How much of a message that cannot be read is shown.
const EXCERPT: usize = 200;

/// Writes headers as an object.
pub(crate) fn encode_headers(out: &mut Vec<u8>, headers: &Headers) {
    out.push(b'{');
    for (index, (name, value)) in headers.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(out, name);
        out.push(b':');
        string(out, value);
    }
    out.push(b'}');
}

/// Reads headers from an object; whatever is no text is left out.
pub(crate) fn decode_headers(raw: &[u8]) -> Headers {
    serde_json::from_slice::<HeaderObject>(raw).map(|object| object.headers).unwrap_or_default()
}

/// The beginning of a message, for people.
pub(crate) fn excerpt(raw: &[u8]) -> String {
    let cut = &raw[..raw.len().min(EXCERPT)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < raw.len() {
        text.push('…');
    }
    text
}

/// The error of a message that cannot be read.
pub(crate) fn malformed(why: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, why)
}

pub(crate) fn parse<'a, T: Deserialize<'a>>(raw: &'a [u8]) -> Result<T> {
    // Checked once, rather than string by string.
    let text =
        std::str::from_utf8(raw).map_err(|error| malformed(format!("it is not UTF-8: {error}")))?;
    serde_json::from_str(text)
        .map_err(|error| malformed(format!("it is not the JSON that was expected: {error}")))
}

/// The value, sharing the memory of the message that it came with.
pub(crate) fn slice(raw: &Bytes, value: &RawValue) -> Bytes {
    raw.slice_ref(value.get().as_bytes())
}

/// Writes a JSON string.
pub(crate) fn string(out: &mut Vec<u8>, text: &str) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing to memory does not fail, and a text always has a JSON form.
        let _ = serde_json::to_writer(out, text);
    }
}

/// A text that borrows if nothing in it is escaped.
#[derive(Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

impl From<Text<'_>> for Name {
    fn from(text: Text<'_>) -> Self {
        text.0.into()
    }
}

/// Headers: an object whose texts count.
#[derive(Default)]
pub(crate) struct HeaderObject {
    pub(crate) headers: Headers,
    /// [`Headers::TIME_LEFT_MS`], which is the transport's own: each call has it, so it is not kept
    /// as a text.
    pub(crate) left: Option<Duration>,
}

impl<'de> Deserialize<'de> for HeaderObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = HeaderObject;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("headers")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let (mut headers, mut left) = (Headers::new(), None);
                while let Some(name) = map.next_key::<Text<'de>>()? {
                    if name.0 == Headers::TIME_LEFT_MS {
                        let value = map.next_value::<&RawValue>()?.get();
                        left = value.trim_matches('"').parse().ok().map(Duration::from_millis);
                    } else if headers.iter().len() == MOST_HEADERS {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    } else if let Ok(value) =
                        serde_json::from_str::<String>(map.next_value::<&RawValue>()?.get())
                    {
                        headers.set(name.0, value);
                    }
                }
                Ok(HeaderObject { headers, left })
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// Headers that are something else than an object are no headers, and no error.
pub(crate) fn lenient_headers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<HeaderObject>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    if raw.get().starts_with('{') { Ok(serde_json::from_str(raw.get()).ok()) } else { Ok(None) }
}
