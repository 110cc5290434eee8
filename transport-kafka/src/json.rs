//! Payloads of records: arguments as one JSON object.
//!
//! Written by hand around arguments that are encoded already, and read into slices of the record, so
//! that no argument is parsed or copied.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use lightbus_core::{Arguments, Error, ErrorKind, Name, Result};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// How much of a record that cannot be read is shown.
const EXCERPT: usize = 200;

/// Writes arguments as one object.
pub(crate) fn encode_fields(fields: &Arguments) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 + fields.size() + fields.len() * 4);
    out.push(b'{');
    for (index, (name, value)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(&mut out, name);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.push(b'}');
    out
}

/// Reads arguments.
pub(crate) fn decode_fields(raw: &Bytes) -> Result<Arguments> {
    let arguments: ArgumentList<'_> = parse(raw)?;
    let slice = |value: &RawValue| raw.slice_ref(value.get().as_bytes());
    Ok(arguments.0.into_iter().map(|(name, value)| (Name::from(name), slice(value))).collect())
}

/// Whether this is JSON.
pub(crate) fn check_json(raw: &[u8]) -> Result<()> {
    parse::<&RawValue>(raw).map(drop)
}

/// The beginning of a record, for people.
pub(crate) fn excerpt(raw: &[u8]) -> String {
    let cut = &raw[..raw.len().min(EXCERPT)];
    let mut text = String::from_utf8_lossy(cut).into_owned();
    if cut.len() < raw.len() {
        text.push('…');
    }
    text
}

/// The error of a record that cannot be read.
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
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl From<Text<'_>> for Name {
    fn from(text: Text<'_>) -> Self {
        text.0.into()
    }
}

/// The arguments of a call, each as it stands in the record.
struct ArgumentList<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for ArgumentList<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = ArgumentList<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of arguments")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut arguments: Vec<(Text<'de>, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<Text<'de>, &RawValue>()? {
                    // Of a repeated name `Arguments` gives the last.
                    arguments.push((name, value));
                }
                Ok(ArgumentList(arguments))
            }
        }

        deserializer.deserialize_map(Object)
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
        let raw = Bytes::from(encode_fields(&sent));
        let read = decode_fields(&raw).unwrap();
        assert_eq!(read, sent);
        assert!(raw.as_ptr_range().contains(&read.get("a").unwrap().as_ptr()));
    }

    #[test]
    fn no_cut_panics() {
        let fields: Arguments =
            [(Name::from("a\u{e9}"), Bytes::from("[1, {\"b\": 2}]"))].into_iter().collect();
        let whole = encode_fields(&fields);
        for end in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..end]);
            assert!(decode_fields(&cut).is_err());
            let _ = excerpt(&cut);
        }
    }
}
