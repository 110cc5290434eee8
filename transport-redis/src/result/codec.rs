//! The JSON form of results.

use bytes::Bytes;
use lightbus_core::{
    Name, RemoteError, Result, ResultMessage,
    json::{Text, malformed, parse, salvage_section, slice, write_string},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::header::{HeaderObject, lenient_headers, write_headers};

/// The scheme of a return path; the name of a key follows.
pub(crate) const RETURN_SCHEME: &str = "redis+key://";

/// Encodes a result.
pub(crate) fn encode_result(result: &ResultMessage) -> Vec<u8> {
    let mut out = Vec::with_capacity(
        160 + result.id.len()
            + result.rpc_id.len()
            + match &result.body {
                Ok(value) => value.len(),
                Err(error) => {
                    error.message.len()
                        + error.trace.as_ref().map_or(0, String::len)
                        + error.detail.as_ref().map_or(0, Bytes::len)
                }
            },
    );
    out.push(b'{');
    if let Err(RemoteError { name, detail, .. }) = &result.body
        && (name.is_some() || detail.is_some())
    {
        out.extend_from_slice(b"\"error\":{");
        if let Some(detail) = detail {
            out.extend_from_slice(b"\"detail\":");
            out.extend_from_slice(detail);
        }
        if let Some(name) = name {
            out.extend_from_slice(if detail.is_some() { b",\"name\":" } else { b"\"name\":" });
            write_string(&mut out, name);
        }
        out.extend_from_slice(b"},");
    }
    if !result.headers.is_empty() {
        out.extend_from_slice(b"\"headers\":");
        write_headers(&mut out, &result.headers);
        out.push(b',');
    }
    out.extend_from_slice(b"\"kwargs\":{\"result\":");
    match &result.body {
        Ok(value) => out.extend_from_slice(value),
        Err(error) => write_string(&mut out, &error.message),
    }
    out.extend_from_slice(b"},\"metadata\":{\"error\":");
    out.extend_from_slice(if result.body.is_err() { b"true" } else { b"false" });
    out.extend_from_slice(b",\"id\":");
    write_string(&mut out, &result.id);
    out.extend_from_slice(b",\"rpc_message_id\":");
    write_string(&mut out, &result.rpc_id);
    if let Err(RemoteError { trace: Some(trace), .. }) = &result.body {
        out.extend_from_slice(b",\"trace\":");
        write_string(&mut out, trace);
    }
    out.extend_from_slice(b"}}");
    out
}

/// Decodes a result.
pub(crate) fn decode_result(raw: &Bytes) -> Result<ResultMessage> {
    let document: ResultDocument<'_> = parse(raw)?;
    let metadata = document.metadata.ok_or_else(|| malformed("it has no metadata"))?;
    let rpc_id = metadata
        .rpc_message_id
        .filter(|id| !id.0.is_empty())
        .ok_or_else(|| malformed("its metadata lacks `rpc_message_id`"))?;
    let value = document.kwargs.and_then(|kwargs| kwargs.result);
    let value = value.map_or(Bytes::from_static(b"null"), |value| slice(raw, value));
    let body = if metadata.error.is_some_and(is_truthy) {
        let own = document.error.unwrap_or_default();
        Err(RemoteError {
            message: plain_text(&value),
            trace: metadata
                .trace
                .filter(|trace| trace.get() != "null")
                .map(|trace| plain_text(trace.get().as_bytes())),
            name: own.name.map(Name::from),
            detail: own.detail.map(|detail| slice(raw, detail)),
        })
    } else {
        Ok(value)
    };
    Ok(ResultMessage {
        id: metadata.id.map_or_else(|| Name::from(""), Name::from),
        rpc_id: Name::from(rpc_id),
        headers: document.headers.map(|object| object.headers).unwrap_or_default(),
        body,
    })
}

/// Returns the id of the call that a result answers which cannot be read, if that can be.
pub(crate) fn salvage_result(raw: &[u8]) -> Option<Name> {
    salvage_section(raw, "metadata", ["rpc_message_id"]).map(|[id]| id)
}

/// Whether Python considers a value true.
fn is_truthy(value: &RawValue) -> bool {
    match value.get() {
        "false" | "null" | "\"\"" => false,
        text => {
            let empty = |open, close| {
                text.strip_prefix(open)
                    .and_then(|rest: &str| rest.strip_suffix(close))
                    .is_some_and(|inside| inside.trim().is_empty())
            };
            !(empty('[', ']') || empty('{', '}') || text.parse() == Ok(0.0))
        }
    }
}

/// Returns the text of a JSON string, or the JSON of any other value.
fn plain_text(json: &[u8]) -> String {
    serde_json::from_slice::<String>(json)
        .unwrap_or_else(|_| String::from_utf8_lossy(json).into_owned())
}

#[derive(Deserialize)]
struct ResultDocument<'a> {
    #[serde(borrow)]
    metadata: Option<ResultMetadata<'a>>,
    #[serde(borrow, default)]
    kwargs: Option<ResultValue<'a>>,
    #[serde(borrow, default)]
    error: Option<OwnError<'a>>,
    #[serde(default, deserialize_with = "lenient_headers")]
    headers: Option<HeaderObject>,
}

#[derive(Deserialize)]
struct ResultMetadata<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(borrow, default)]
    rpc_message_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    trace: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ResultValue<'a> {
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct OwnError<'a> {
    #[serde(borrow, default)]
    name: Option<Text<'a>>,
    #[serde(borrow, default)]
    detail: Option<&'a RawValue>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn truth_is_that_of_python() {
        for (json, expected) in [
            ("true", true),
            ("false", false),
            ("null", false),
            ("0", false),
            ("0.0", false),
            ("-0", false),
            ("1", true),
            ("\"\"", false),
            ("\"false\"", true),
            ("[]", false),
            ("[ ]", false),
            ("{}", false),
            ("[0]", true),
            ("{\"a\": 0}", true),
        ] {
            let value = RawValue::from_string(json.to_owned()).unwrap();
            assert_eq!(is_truthy(&value), expected, "{json}");
        }
    }

    #[test]
    fn no_cut_of_a_message_panics() {
        let result = ResultMessage {
            id: "1".into(),
            rpc_id: "2".into(),
            headers: lightbus_core::Headers::new(),
            body: Ok(Bytes::from_static(b"[1, {\"metadata\": 2}]")),
        };
        let whole = encode_result(&result);
        for end in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..end]);
            assert!(decode_result(&cut).is_err());
            let _ = lightbus_core::json::excerpt(&cut);
        }
    }
}
