//! Headers, which are a JSON object in calls and results, and one field of an event.

use std::{fmt, time::Duration};

use lightbus_core::{
    Headers,
    json::{self, Text},
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// Appends headers as an object.
pub(crate) fn write_headers(out: &mut Vec<u8>, headers: &Headers) {
    json::write_strings(out, headers.iter().map(|(name, value)| (&**name, &**value)));
}

/// Reads headers from an object; values that are not strings are left out.
pub(crate) fn decode_headers(raw: &[u8]) -> Headers {
    serde_json::from_slice::<HeaderObject>(raw).map(|object| object.headers).unwrap_or_default()
}

/// Headers: the members of an object that are strings.
#[derive(Default)]
pub(crate) struct HeaderObject {
    pub(crate) headers: Headers,
    /// [`Headers::TIME_LEFT_MS`], which is the transport's own: each call has it, so it is not kept
    /// as a string.
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
                    } else if headers.iter().len() == Headers::MAX_COUNT {
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

/// Headers that are not an object count as none, and are no error.
pub(crate) fn lenient_headers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<HeaderObject>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    if raw.get().starts_with('{') { Ok(serde_json::from_str(raw.get()).ok()) } else { Ok(None) }
}
