//! The JSON forms of calls and results.
//!
//! Written by hand around arguments that are encoded already; read into slices of the message, so
//! that no argument is parsed or copied.

use std::{borrow::Cow, fmt, time::Duration};

use bytes::Bytes;
use lightbus_core::{
    Arguments, Error, ErrorKind, Headers, Name, RemoteError, Result, ResultMessage, ReturnPath,
    RpcMessage,
};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use tokio::time::Instant;

/// What a return path on Redis begins with; the name of a key follows.
pub(crate) const RETURN_SCHEME: &str = "redis+key://";

/// More headers than these are left out: they are few by nature, and searched one by one.
const MOST_HEADERS: usize = 64;
/// How much of a message that cannot be read is shown.
const EXCERPT: usize = 200;

/// Writes a call. `left` is the time until its deadline.
pub(crate) fn encode_call(call: &RpcMessage, left: Duration) -> Vec<u8> {
    let mut out = Vec::with_capacity(
        192 + call.fields.size()
            + call.fields.len() * 8
            + call.api.len()
            + call.procedure.len()
            + call.id.len()
            + call.return_path.as_str().len(),
    );
    out.extend_from_slice(b"{\"headers\":{");
    string(&mut out, Headers::TIME_LEFT_MS);
    out.push(b':');
    string(&mut out, itoa(&mut [0; 20], left.as_millis()));
    for (name, value) in call.headers.iter().filter(|(name, _)| &***name != Headers::TIME_LEFT_MS) {
        out.push(b',');
        string(&mut out, name);
        out.push(b':');
        string(&mut out, value);
    }
    out.extend_from_slice(b"},\"kwargs\":{");
    for (index, (name, value)) in call.fields.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        string(&mut out, name);
        out.push(b':');
        out.extend_from_slice(value);
    }
    out.extend_from_slice(b"},\"metadata\":{\"api_name\":");
    string(&mut out, &call.api);
    out.extend_from_slice(b",\"id\":");
    string(&mut out, &call.id);
    out.extend_from_slice(b",\"procedure_name\":");
    string(&mut out, &call.procedure);
    out.extend_from_slice(b",\"return_path\":");
    string(&mut out, call.return_path.as_str());
    out.extend_from_slice(b"}}");
    out
}

/// Writes a result.
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
            string(&mut out, name);
        }
        out.extend_from_slice(b"},");
    }
    if !result.headers.is_empty() {
        out.extend_from_slice(b"\"headers\":");
        encode_headers(&mut out, &result.headers);
        out.push(b',');
    }
    out.extend_from_slice(b"\"kwargs\":{\"result\":");
    match &result.body {
        Ok(value) => out.extend_from_slice(value),
        Err(error) => string(&mut out, &error.message),
    }
    out.extend_from_slice(b"},\"metadata\":{\"error\":");
    out.extend_from_slice(if result.body.is_err() { b"true" } else { b"false" });
    out.extend_from_slice(b",\"id\":");
    string(&mut out, &result.id);
    out.extend_from_slice(b",\"rpc_message_id\":");
    string(&mut out, &result.rpc_id);
    if let Err(RemoteError { trace: Some(trace), .. }) = &result.body {
        out.extend_from_slice(b",\"trace\":");
        string(&mut out, trace);
    }
    out.extend_from_slice(b"}}");
    out
}

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

/// A call as it was read.
pub(crate) struct DecodedCall {
    pub(crate) id: Name,
    pub(crate) api: Name,
    pub(crate) procedure: Name,
    pub(crate) return_path: ReturnPath,
    pub(crate) fields: Arguments,
    pub(crate) headers: Headers,
    /// What was left until the deadline when it was sent.
    pub(crate) left: Option<Duration>,
}

impl DecodedCall {
    /// The call as the bus sees it. Without a header that says how long its caller waits, the
    /// caller waits `usual`.
    pub(crate) fn into_message(self, now: Instant, usual: Duration) -> RpcMessage {
        let left = self.left.unwrap_or(usual);
        RpcMessage {
            id: self.id,
            api: self.api,
            procedure: self.procedure,
            fields: self.fields,
            headers: self.headers,
            return_path: self.return_path,
            // A caller that waits for years is of no interest to the clock.
            deadline: now + left.min(Duration::from_secs(365 * 24 * 3600)),
        }
    }
}

/// Reads a call.
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
        fields: document
            .kwargs
            .0
            .into_iter()
            .map(|(name, value)| (Name::from(name), slice(raw, value)))
            .collect(),
        headers,
        left,
    })
}

/// What of a call that cannot be read is enough to answer it: its id and its return path.
pub(crate) fn salvage_call(raw: &[u8]) -> Option<(Name, ReturnPath)> {
    const KEY: &[u8] = b"\"metadata\"";
    let mut end = raw.len();
    // From the end, where senders put it; a few only, whatever the message is full of.
    for _ in 0..8 {
        let at = raw[..end].windows(KEY.len()).rposition(|window| window == KEY)?;
        end = at;
        let rest = raw[at + KEY.len()..].trim_ascii_start();
        let Some(rest) = rest.strip_prefix(b":") else { continue };
        let metadata = serde_json::Deserializer::from_slice(rest)
            .into_iter::<CallMetadata<'_>>()
            .next()
            .and_then(std::result::Result::ok);
        if let Some(CallMetadata { id: Some(id), return_path: Some(path), .. }) = metadata
            && !id.0.is_empty()
            && path.0.starts_with(RETURN_SCHEME)
        {
            return Some((Name::from(id), ReturnPath::new(Name::from(path))));
        }
    }
    None
}

/// Reads a result.
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

/// What Python takes for true.
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

/// The text of a JSON string, or the JSON of anything else.
fn plain_text(json: &[u8]) -> String {
    serde_json::from_slice::<String>(json)
        .unwrap_or_else(|_| String::from_utf8_lossy(json).into_owned())
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

fn parse<'a, T: Deserialize<'a>>(raw: &'a [u8]) -> Result<T> {
    // Checked once, rather than string by string.
    let text =
        std::str::from_utf8(raw).map_err(|error| malformed(format!("it is not UTF-8: {error}")))?;
    serde_json::from_str(text)
        .map_err(|error| malformed(format!("it is not the JSON that was expected: {error}")))
}

/// The value, sharing the memory of the message that it came with.
fn slice(raw: &Bytes, value: &RawValue) -> Bytes {
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

/// A number as text, without allocating.
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
    kwargs: ArgumentList<'a>,
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

/// The arguments of a call, each as it stands in the message.
#[derive(Default)]
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

/// A text that borrows if nothing in it is escaped.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl From<Text<'_>> for Name {
    fn from(text: Text<'_>) -> Self {
        text.0.into()
    }
}

/// Headers: an object whose texts count.
#[derive(Default)]
struct HeaderObject {
    headers: Headers,
    /// [`Headers::TIME_LEFT_MS`], which is the transport's own: each call has it, so it is not kept
    /// as a text.
    left: Option<Duration>,
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
fn lenient_headers<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<HeaderObject>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    if raw.get().starts_with('{') { Ok(serde_json::from_str(raw.get()).ok()) } else { Ok(None) }
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
        let now = Instant::now();
        let message = read.into_message(now, Duration::from_secs(9));
        assert_eq!(message.deadline, now + Duration::from_millis(1234));
    }

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
    fn no_cut_of_a_message_panics_and_callers_are_made_out_where_possible() {
        let whole = encode_call(&call(&[("a", "[1, {\"metadata\": 2}]")]), Duration::from_secs(1));
        for end in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..end]);
            assert!(decode_call(&cut).is_err());
            assert!(decode_result(&cut).is_err());
            let _ = excerpt(&cut);
            // The metadata is whole but for the last brace.
            assert_eq!(salvage_call(&cut).is_some(), end + 1 == whole.len(), "{end}");
        }
        let mut odd = whole.clone();
        for index in 0..odd.len() {
            let byte = std::mem::replace(&mut odd[index], 0xff);
            assert!(decode_call(&Bytes::copy_from_slice(&odd)).is_err());
            let _ = salvage_call(&odd);
            odd[index] = byte;
        }
    }
}
