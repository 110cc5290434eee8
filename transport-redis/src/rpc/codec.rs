//! The JSON form of calls.
//!
//! Written by hand around arguments that are encoded already, and read into slices of the message, so
//! that no argument is parsed or copied.

use std::{iter, time::Duration};

use bytes::Bytes;
use lightbus_core::{
    Arguments, Headers, Name, Result, ReturnPath, RpcMessage,
    json::{
        Members, Text, malformed, parse, salvage_section, write_arguments, write_string,
        write_strings,
    },
    time::after,
};
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    header::{HeaderObject, lenient_headers},
    result::RETURN_SCHEME,
};

/// Encodes a call. `left` is the time until its deadline.
pub(crate) fn encode_call(call: &RpcMessage, left: Duration) -> Vec<u8> {
    let mut out = Vec::with_capacity(
        192 + call.fields.size()
            + call.fields.len() * 8
            + call.api.len()
            + call.procedure.len()
            + call.id.len()
            + call.return_path.as_str().len(),
    );
    out.extend_from_slice(b"{\"headers\":");
    let mut digits = [0; 20];
    let left = itoa(&mut digits, left.as_millis());
    let others = call.headers.iter().filter(|(name, _)| &***name != Headers::TIME_LEFT_MS);
    let others = others.map(|(name, value)| (&**name, &**value));
    write_strings(&mut out, iter::once((Headers::TIME_LEFT_MS, left)).chain(others));
    out.extend_from_slice(b",\"kwargs\":");
    write_arguments(&mut out, &call.fields);
    out.extend_from_slice(b",\"metadata\":{\"api_name\":");
    write_string(&mut out, &call.api);
    out.extend_from_slice(b",\"id\":");
    write_string(&mut out, &call.id);
    out.extend_from_slice(b",\"procedure_name\":");
    write_string(&mut out, &call.procedure);
    out.extend_from_slice(b",\"return_path\":");
    write_string(&mut out, call.return_path.as_str());
    out.extend_from_slice(b"}}");
    out
}

/// A call as it was read.
pub(crate) struct DecodedCall {
    pub(crate) id: Name,
    pub(crate) api: Name,
    pub(crate) procedure: Name,
    pub(crate) return_path: ReturnPath,
    pub(crate) fields: Arguments,
    pub(crate) headers: Headers,
    /// The time until the deadline when it was sent. It says nothing of the time in the queue.
    pub(crate) left: Option<Duration>,
}

impl DecodedCall {
    /// Returns the call for the bus. `left` is the time until its deadline from `now` on.
    pub(crate) fn into_message(self, now: Instant, left: Duration) -> RpcMessage {
        RpcMessage {
            id: self.id,
            api: self.api,
            procedure: self.procedure,
            fields: self.fields,
            headers: self.headers,
            return_path: self.return_path,
            deadline: after(now, left),
        }
    }
}

/// Decodes a call.
pub(crate) fn decode_call(raw: &Bytes) -> Result<DecodedCall> {
    let document: CallDocument<'_> = parse(raw)?;
    let metadata = document.metadata.ok_or_else(|| malformed("it has no metadata"))?;
    let filled = |value: Option<Text<'_>>, name: &str| match value {
        Some(text) if !text.0.is_empty() => Ok(Name::from(text)),
        _ => Err(malformed(format!("its metadata lacks `{name}`"))),
    };
    let HeaderObject { headers, left } = document.headers.unwrap_or_default();
    Ok(DecodedCall {
        id: filled(metadata.id, "id")?,
        api: filled(metadata.api_name, "api_name")?,
        procedure: filled(metadata.procedure_name, "procedure_name")?,
        return_path: ReturnPath::new(filled(metadata.return_path, "return_path")?),
        fields: document.kwargs.into_arguments(raw),
        headers,
        left,
    })
}

/// Returns the id of a call, if it can be read.
pub(crate) fn call_id(raw: &[u8]) -> Option<Name> {
    #[derive(Deserialize)]
    struct Document<'a> {
        #[serde(borrow)]
        metadata: Metadata<'a>,
    }
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow)]
        id: Text<'a>,
    }
    serde_json::from_slice::<Document<'_>>(raw).ok().map(|document| document.metadata.id.into())
}

/// Returns the id and return path of a call that cannot be read, if these can be, to answer it.
pub(crate) fn salvage_call(raw: &[u8]) -> Option<(Name, ReturnPath)> {
    let [id, path] = salvage_section(raw, "metadata", ["id", "return_path"])?;
    path.starts_with(RETURN_SCHEME).then(|| (id, ReturnPath::new(path)))
}

/// Formats a number without allocating.
fn itoa(buffer: &mut [u8; 20], number: u128) -> &str {
    let mut rest = u64::try_from(number).unwrap_or(u64::MAX);
    let mut start = buffer.len();
    loop {
        start -= 1;
        buffer[start] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    std::str::from_utf8(&buffer[start..]).unwrap_or("0")
}

#[derive(Deserialize)]
struct CallDocument<'a> {
    #[serde(borrow)]
    metadata: Option<CallMetadata<'a>>,
    #[serde(borrow, default)]
    kwargs: Members<'a>,
    #[serde(default, deserialize_with = "lenient_headers")]
    headers: Option<HeaderObject>,
}

#[derive(Deserialize)]
struct CallMetadata<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    api_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    procedure_name: Option<Text<'a>>,
    #[serde(borrow, default)]
    return_path: Option<Text<'a>>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn call(fields: &[(&str, &str)]) -> RpcMessage {
        RpcMessage {
            id: "id \"1\"".into(),
            api: "shop.till".into(),
            procedure: "add".into(),
            fields: fields
                .iter()
                .map(|(name, value)| (Name::from(*name), Bytes::from(value.as_bytes().to_vec())))
                .collect(),
            headers: Headers::new(),
            return_path: ReturnPath::new("redis+key://k\u{e9}"),
            deadline: Instant::now(),
        }
    }

    #[test]
    fn a_call_reads_back_as_it_was_written_without_copies() {
        let mut sent = call(&[("a", "1.10"), ("\u{2603}\n", "{\"x\": [1e400]}")]);
        sent.headers.set("traceparent", "00-\u{1}");
        let raw = Bytes::from(encode_call(&sent, Duration::from_millis(1234)));
        let read = decode_call(&raw).unwrap();
        assert_eq!((&read.id, &read.api, &read.procedure), (&sent.id, &sent.api, &sent.procedure));
        assert_eq!(read.return_path, sent.return_path);
        assert_eq!(read.fields, sent.fields);
        assert_eq!(read.headers.get("traceparent"), Some("00-\u{1}"));
        let value = read.fields.get("a").unwrap();
        assert!(raw.as_ptr_range().contains(&value.as_ptr()));
        assert_eq!(read.left, Some(Duration::from_millis(1234)));
        let now = Instant::now();
        let message = read.into_message(now, Duration::from_secs(9));
        assert_eq!(message.deadline, now + Duration::from_secs(9));
    }

    #[test]
    fn no_cut_of_a_message_panics_and_callers_are_salvaged_where_possible() {
        let whole = encode_call(&call(&[("a", "[1, {\"metadata\": 2}]")]), Duration::from_secs(1));
        let mut found = false;
        for end in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..end]);
            assert!(decode_call(&cut).is_err());
            // Once the caller's members are there, what follows them is not needed.
            let salvaged = salvage_call(&cut).is_some();
            assert!(salvaged || !found, "{end}");
            found = salvaged;
        }
        assert!(found, "at the latest without the last brace");
        let mut odd = whole.clone();
        for index in 0..odd.len() {
            let byte = std::mem::replace(&mut odd[index], 0xff);
            assert!(decode_call(&Bytes::copy_from_slice(&odd)).is_err());
            let _ = salvage_call(&odd);
            odd[index] = byte;
        }
    }
}
