//! Reading and writing of JSON objects around values that are encoded already: for transports whose
//! messages are JSON.
//!
//! [`codec`](crate::codec) turns values into JSON. Here, messages are put together from such pieces, and
//! taken apart into slices of the message, so that no argument is parsed or copied.

mod salvage;

use std::{borrow::Cow, fmt, marker::PhantomData};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

pub use salvage::{salvage_section, salvage_texts};

use crate::{Arguments, Error, ErrorKind, Name, RemoteError, Result};

/// The most bytes of a message that [`excerpt`] shows.
const EXCERPT: usize = 200;

/// Appends a JSON string.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    let plain = text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
    if plain {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing to memory does not fail, and a string always has a JSON form.
        let _ = serde_json::to_writer(out, text);
    }
}

/// Appends an object whose values are encoded already.
pub fn write_object<'a>(out: &mut Vec<u8>, members: impl IntoIterator<Item = (&'a str, &'a [u8])>) {
    write_members(out, members, |out, value| out.extend_from_slice(value));
}

/// Appends an object whose values are strings.
pub fn write_strings<'a>(out: &mut Vec<u8>, members: impl IntoIterator<Item = (&'a str, &'a str)>) {
    write_members(out, members, write_string);
}

fn write_members<'a, V: ?Sized + 'a>(
    out: &mut Vec<u8>,
    members: impl IntoIterator<Item = (&'a str, &'a V)>,
    mut write_value: impl FnMut(&mut Vec<u8>, &V),
) {
    out.push(b'{');
    for (index, (name, value)) in members.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_string(out, name);
        out.push(b':');
        write_value(out, value);
    }
    out.push(b'}');
}

/// Appends arguments as an object.
pub fn write_arguments(out: &mut Vec<u8>, arguments: &Arguments) {
    write_object(out, arguments.iter().map(|(name, value)| (&**name, &**value)));
}

/// Returns arguments as an object.
#[must_use]
pub fn encode_arguments(arguments: &Arguments) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + arguments.size() + arguments.len() * 4);
    write_arguments(&mut out, arguments);
    out
}

/// Reads arguments from an object. The values are slices of it.
///
/// # Errors
///
/// [`Malformed`](ErrorKind::Malformed) if it is not an object.
pub fn decode_arguments(raw: &Bytes) -> Result<Arguments> {
    Ok(parse::<Members<'_>>(raw)?.into_arguments(raw))
}

/// Returns what went wrong as an object of `message` and, where they are set, `trace`, `name` and
/// `detail`. A `detail` that is not JSON is left out.
#[must_use]
pub fn encode_remote_error(error: &RemoteError) -> Vec<u8> {
    // Strings and JSON always have a JSON form.
    serde_json::to_vec(&RemoteErrorObject::new(error)).unwrap_or_default()
}

/// Reads what [`encode_remote_error`] wrote.
///
/// # Errors
///
/// [`Malformed`](ErrorKind::Malformed) if it is not such an object.
pub fn decode_remote_error(raw: &Bytes) -> Result<RemoteError> {
    Ok(parse::<RemoteErrorObject<'_>>(raw)?.into_error(raw))
}

/// A [`RemoteError`] as an object.
#[derive(Serialize, Deserialize)]
pub(crate) struct RemoteErrorObject<'a> {
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    trace: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    #[serde(
        borrow,
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    detail: Option<&'a RawValue>,
}

impl<'a> RemoteErrorObject<'a> {
    /// Leaves out a `detail` that is not JSON.
    pub(crate) fn new(error: &'a RemoteError) -> Self {
        Self {
            message: Cow::Borrowed(&error.message),
            trace: error.trace.as_deref().map(Cow::Borrowed),
            name: error.name.as_deref().map(Cow::Borrowed),
            detail: error.detail.as_deref().and_then(|detail| serde_json::from_slice(detail).ok()),
        }
    }

    /// Reads it, as a part of this message.
    pub(crate) fn into_error(self, message: &Bytes) -> RemoteError {
        RemoteError {
            message: self.message.into_owned(),
            trace: self.trace.map(Cow::into_owned),
            name: self.name.map(Name::from),
            detail: self.detail.map(|detail| slice(message, detail)),
        }
    }
}

/// Reads a member that may be absent, and tells `null` from absent.
pub(crate) fn present<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads a message, or a part of one.
///
/// # Errors
///
/// [`Malformed`](ErrorKind::Malformed) with the reason and the position.
pub fn parse<'a, T: Deserialize<'a>>(raw: &'a [u8]) -> Result<T> {
    // Checked once, rather than string by string.
    let text =
        std::str::from_utf8(raw).map_err(|error| malformed(format!("it is not UTF-8: {error}")))?;
    serde_json::from_str(text).map_err(|error| {
        malformed(format!(
            "it is not the JSON that was expected: {}",
            crate::codec::json_error(&error)
        ))
    })
}

/// Returns a value as a slice of the message that it was [parsed](parse) from.
///
/// # Panics
///
/// If the value is not a part of the message.
#[must_use]
pub fn slice(message: &Bytes, value: &RawValue) -> Bytes {
    message.slice_ref(value.get().as_bytes())
}

/// Returns the beginning of a message that cannot be read, for people.
#[must_use]
pub fn excerpt(raw: &[u8]) -> String {
    let cut = &raw[..raw.len().min(EXCERPT)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < raw.len() {
        text.push('…');
    }
    text
}

/// The error of a message that cannot be read.
#[must_use]
pub fn malformed(why: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, why)
}

/// A string that borrows from the message unless something in it is escaped.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl From<Text<'_>> for Name {
    fn from(text: Text<'_>) -> Self {
        text.0.into()
    }
}

/// The members of an object in their order, each value as it stands in the message. A name may
/// occur more than once.
#[derive(Clone, Debug)]
pub struct Members<'a, V = &'a RawValue>(pub Vec<(Text<'a>, V)>);

impl<V> Default for Members<'_, V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl Members<'_> {
    /// Returns the members as arguments, as slices of the message that they were [parsed](parse) from.
    ///
    /// # Panics
    ///
    /// If a value is not a part of the message.
    #[must_use]
    pub fn into_arguments(self, message: &Bytes) -> Arguments {
        // Of a name that occurs twice, `Arguments::get` returns the last value.
        self.0.into_iter().map(|(name, value)| (name.into(), slice(message, value))).collect()
    }
}

impl<V: Serialize> Serialize for Members<'_, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (&*name.0, value)))
    }
}

impl<'de: 'a, 'a, V: Deserialize<'de>> Deserialize<'de> for Members<'a, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Object<'a, V>(PhantomData<(&'a (), V)>);

        impl<'de: 'a, 'a, V: Deserialize<'de>> Visitor<'de> for Object<'a, V> {
            type Value = Members<'a, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object(PhantomData))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn arguments_read_back_as_they_were_written_without_copies() {
        let sent: Arguments = [("a", "1.10"), ("\u{2603}\n", "{\"x\": [1e400]}")]
            .into_iter()
            .map(|(name, value)| (Name::from(name), Bytes::from(value)))
            .collect();
        let raw = Bytes::from(encode_arguments(&sent));
        let read = decode_arguments(&raw).unwrap();
        assert_eq!(read, sent);
        assert!(raw.as_ptr_range().contains(&read.get("a").unwrap().as_ptr()));
        for other in ["", "{", "[]", "{\"a\":}", "{\"a\":1} x", "null"] {
            let error = decode_arguments(&Bytes::from(other)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed, "{other}");
        }
    }

    #[test]
    fn an_error_reads_back_as_it_was_written() {
        let sent = RemoteError {
            message: "no \"way\"".into(),
            trace: Some("line 1\nline 2".into()),
            name: Some("Refused".into()),
            detail: Some(Bytes::from_static(b"{\"code\":1}")),
        };
        let back = |error| decode_remote_error(&encode_remote_error(error).into()).unwrap();
        assert_eq!(back(&sent), sent);
        let plain = RemoteError { message: "no".into(), ..RemoteError::default() };
        assert_eq!(encode_remote_error(&plain), b"{\"message\":\"no\"}");
        assert_eq!(back(&plain), plain);
        let null = RemoteError { detail: Some(Bytes::from_static(b"null")), ..plain.clone() };
        assert_eq!(back(&null), null);
        let odd = RemoteError { detail: Some(Bytes::from_static(b"{")), ..plain.clone() };
        assert_eq!(back(&odd), plain);
    }

    #[test]
    fn no_truncated_message_panics() {
        let fields: Arguments =
            [(Name::from("a\u{e9}"), Bytes::from("[1, {\"b\": 2}]"))].into_iter().collect();
        let whole = Bytes::from(encode_arguments(&fields));
        for end in 0..whole.len() {
            let cut = whole.slice(..end);
            assert!(decode_arguments(&cut).is_err());
            assert!(decode_remote_error(&cut).is_err());
            let _ = excerpt(&cut);
        }
        assert_eq!(excerpt(&[b'x'; EXCERPT + 1]).chars().count(), EXCERPT + 1);
    }
}
