//! The wire form of a message whose broker has nothing but a payload: one JSON object, version 1.
//!
//! | | call | result | event |
//! | --- | --- | --- | --- |
//! | `v` | 1 | 1 | 1 |
//! | `id` | of the call | of the result | of the event |
//! | | `api`, `procedure` | `rpc_id`: the call's id | `api`, `event`, `version` |
//! | `headers` | an object of texts, left out if empty | likewise | likewise |
//! | | `fields`: an object, in order | `value`, or `error`: an object of `message` and, where there are, `trace`, `name`, `detail` | `fields`; `key`, where there is one |
//! | | `return_path`; `expires`, a moment | | `requeued`, in a dead letter that was given back: `group`, `native_id`, `time` |
//!
//! ```json
//! {"v":1,"id":"7f…","api":"auth","procedure":"check_password","return_path":"pigeon:results:5c…",
//!  "expires":1767225600000,"headers":{"time-left-ms":"4999"},"fields":{"username":"admin"}}
//! ```
//!
//! Moments are milliseconds since 1970 by the clock of whoever wrote them. Arguments and values are
//! written and read byte for byte, but for white space around them.
//!
//! **Deadlines.** `time-left-ms` says for how long the caller still waited when the call was sent,
//! `expires` when that ends by its clock. A worker takes the time left less the
//! [age](super::Received::age) of the message where the broker says it; otherwise the clocks of caller
//! and worker decide, and have to agree to well within the timeouts of calls. The worker waits never
//! longer than `time-left-ms` from when it reads the call.
//!
//! **Versions.** A reader ignores members that it does not know. `v` grows when a reader has to know
//! something; a message of a higher version cannot be read.
//!
//! Transports that have headers and properties of their own write them there, and need no envelope.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    Arguments, Error, ErrorKind, EventMessage, Headers, Name, Result, ResultMessage, ReturnPath,
    RpcMessage,
    json::{self, Members, RemoteErrorObject, Text, malformed, present, slice},
    time::{after, deadline_after},
};

/// The version that is written, and the highest that is read.
pub const VERSION: u32 = 1;

/// More headers than these are left out: they are few by nature, and searched one by one.
const MOST_HEADERS: usize = 64;
/// A caller that waits for longer waits for this.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// Writes a call. `left` is the time until its deadline.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) if an argument is not JSON.
pub fn encode_call(call: &RpcMessage, left: Duration) -> Result<Vec<u8>> {
    let mut headers = call.headers.clone();
    headers.set(Headers::TIME_LEFT_MS, left.as_millis().to_string());
    write(&CallForm {
        v: VERSION,
        id: (&*call.id).into(),
        api: (&*call.api).into(),
        procedure: (&*call.procedure).into(),
        return_path: call.return_path.as_str().into(),
        expires: Some(millis(after(SystemTime::now(), left.min(LONGEST_WAIT)))),
        headers: HeaderForm(headers),
        fields: arguments(&call.fields)?,
    })
}

/// Reads a call. `age` is how long ago it was sent, where the broker says so.
///
/// # Errors
///
/// [`Malformed`](ErrorKind::Malformed) with the reason. See [`salvage_call`].
pub fn decode_call(raw: &Bytes, age: Option<Duration>) -> Result<RpcMessage> {
    let form: CallForm<'_> = read(raw)?;
    check_version(form.v)?;
    let HeaderForm(mut headers) = form.headers;
    let left = headers.remove(Headers::TIME_LEFT_MS).and_then(|left| left.parse().ok());
    let left = left.map(Duration::from_millis).unwrap_or(LONGEST_WAIT).min(LONGEST_WAIT);
    let until_expiry = || {
        let expires = form.expires.map_or(Duration::MAX, Duration::from_millis);
        expires.saturating_sub(since_1970(SystemTime::now()))
    };
    let left = match age {
        Some(age) => left.saturating_sub(age),
        None => left.min(until_expiry()),
    };
    Ok(RpcMessage {
        id: filled("id", form.id)?,
        api: filled("api", form.api)?,
        procedure: filled("procedure", form.procedure)?,
        return_path: ReturnPath::new(filled("return_path", form.return_path)?),
        fields: form.fields.into_arguments(raw),
        headers,
        deadline: deadline_after(left),
    })
}

/// What of a call that cannot be read is enough to answer it: its id and its return path. They are found
/// as far as the message is JSON.
#[must_use]
pub fn salvage_call(raw: &[u8]) -> Option<(Name, ReturnPath)> {
    let [id, return_path] = json::salvage_texts(raw, ["id", "return_path"]);
    Some((id?, ReturnPath::new(return_path?)))
}

/// Writes a result.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) if the value is not JSON.
pub fn encode_result(result: &ResultMessage) -> Result<Vec<u8>> {
    let (value, error) = match &result.body {
        Ok(value) => (Some(checked("the result", value)?), None),
        Err(error) => (None, Some(RemoteErrorObject::new(error))),
    };
    write(&ResultForm {
        v: VERSION,
        id: (&*result.id).into(),
        rpc_id: (&*result.rpc_id).into(),
        headers: HeaderForm(result.headers.clone()),
        value,
        error,
    })
}

/// Reads a result.
///
/// # Errors
///
/// [`Malformed`](ErrorKind::Malformed) with the reason. See [`salvage_result`].
pub fn decode_result(raw: &Bytes) -> Result<ResultMessage> {
    let form: ResultForm<'_> = read(raw)?;
    check_version(form.v)?;
    let body = match (form.value, form.error) {
        (_, Some(error)) => Err(error.into_error(raw)),
        (Some(value), None) => Ok(slice(raw, value)),
        (None, None) => return Err(malformed("it has neither `value` nor `error`")),
    };
    Ok(ResultMessage {
        id: form.id.into(),
        rpc_id: filled("rpc_id", form.rpc_id)?,
        headers: form.headers.0,
        body,
    })
}

/// Returns the id of the call that a result answers which cannot be read, as far as the message is JSON.
#[must_use]
pub fn salvage_result(raw: &[u8]) -> Option<Name> {
    let [id] = json::salvage_texts(raw, ["rpc_id"]);
    id
}

/// An event that was a dead letter of a group and was given back to it: for this group alone, and with
/// what the broker said of it before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requeued {
    /// The group, as a [safe name](super::safe_name).
    pub group: Name,
    /// The broker's id of the event as it was delivered first.
    pub native_id: Option<Name>,
    /// When the broker stored it first.
    pub time: Option<SystemTime>,
}

/// Writes an event.
///
/// # Errors
///
/// [`Invalid`](ErrorKind::Invalid) if an argument is not JSON.
pub fn encode_event(event: &EventMessage, requeued: Option<&Requeued>) -> Result<Vec<u8>> {
    write(&EventForm {
        v: VERSION,
        id: (&*event.id).into(),
        api: (&*event.api).into(),
        event: (&*event.event).into(),
        version: event.version,
        key: event.key.as_deref().map(Cow::from),
        headers: HeaderForm(event.headers.clone()),
        fields: arguments(&event.fields)?,
        requeued: requeued.map(|requeued| RequeuedForm {
            group: (&*requeued.group).into(),
            native_id: requeued.native_id.as_deref().map(Cow::from),
            time: requeued.time.map(millis),
        }),
    })
}

/// Reads an event, and whom it was given back to. What only the broker knows of it is not set.
///
/// # Errors
///
/// [`Malformed`](ErrorKind::Malformed) with the reason.
pub fn decode_event(raw: &Bytes) -> Result<(EventMessage, Option<Requeued>)> {
    let form: EventForm<'_> = read(raw)?;
    check_version(form.v)?;
    let event = EventMessage {
        key: form.key.map(Name::from),
        headers: form.headers.0,
        ..EventMessage::new(
            filled("id", form.id)?,
            filled("api", form.api)?,
            filled("event", form.event)?,
            form.version,
            form.fields.into_arguments(raw),
        )
    };
    let requeued = form.requeued.map(|requeued| Requeued {
        group: requeued.group.into(),
        native_id: requeued.native_id.map(Name::from),
        time: requeued.time.map(moment),
    });
    Ok((event, requeued))
}

#[derive(Serialize, Deserialize)]
struct CallForm<'a> {
    v: u32,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    api: Cow<'a, str>,
    #[serde(borrow)]
    procedure: Cow<'a, str>,
    #[serde(borrow)]
    return_path: Cow<'a, str>,
    #[serde(default)]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "HeaderForm::is_empty")]
    headers: HeaderForm,
    #[serde(borrow, default)]
    fields: Members<'a>,
}

#[derive(Serialize, Deserialize)]
struct ResultForm<'a> {
    v: u32,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    rpc_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "HeaderForm::is_empty")]
    headers: HeaderForm,
    #[serde(
        borrow,
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    value: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    error: Option<RemoteErrorObject<'a>>,
}

#[derive(Serialize, Deserialize)]
struct EventForm<'a> {
    v: u32,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    api: Cow<'a, str>,
    #[serde(borrow)]
    event: Cow<'a, str>,
    version: u32,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "HeaderForm::is_empty")]
    headers: HeaderForm,
    #[serde(borrow, default)]
    fields: Members<'a>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    requeued: Option<RequeuedForm<'a>>,
}

#[derive(Serialize, Deserialize)]
struct RequeuedForm<'a> {
    #[serde(borrow)]
    group: Cow<'a, str>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    native_id: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
}

#[derive(Default)]
struct HeaderForm(Headers);

impl HeaderForm {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for HeaderForm {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (&**name, &**value)))
    }
}

impl<'de> Deserialize<'de> for HeaderForm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let mut headers = Headers::new();
        let Members(members) = Members::<Text<'de>>::deserialize(deserializer)?;
        for (name, value) in members.into_iter().take(MOST_HEADERS) {
            headers.set(name, value.0);
        }
        Ok(Self(headers))
    }
}

pub(super) fn write<T: Serialize>(form: &T) -> Result<Vec<u8>> {
    serde_json::to_vec(form).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "the message cannot be written as JSON").because(error)
    })
}

fn read<'a, T: Deserialize<'a>>(raw: &'a Bytes) -> Result<T> {
    #[derive(Deserialize)]
    struct Versioned {
        v: u32,
    }

    json::parse(raw).map_err(|error| {
        // Of another version it may well lack what this one has.
        let version = serde_json::from_slice(raw).map_or(VERSION, |Versioned { v }| v);
        check_version(version).err().unwrap_or(error)
    })
}

fn check_version(version: u32) -> Result<()> {
    if version > VERSION {
        return Err(malformed(format!(
            "it has version {version} of the wire form, and this program reads {VERSION}"
        )));
    }
    Ok(())
}

fn filled(name: &'static str, text: Cow<'_, str>) -> Result<Name> {
    if text.is_empty() { Err(malformed(format!("its `{name}` is empty"))) } else { Ok(text.into()) }
}

/// Arguments as members of an object, each as it is encoded.
fn arguments<'a>(fields: &'a Arguments) -> Result<Members<'a>> {
    let member = |(name, value): (&'a Name, &'a Bytes)| {
        checked("an argument", value)
            .map(|value| (Text(Cow::Borrowed(&**name)), value))
            .map_err(|error| error.with("argument", name))
    };
    fields.iter().map(member).collect::<Result<_>>().map(Members)
}

/// Checks what was encoded elsewhere: it must not break the message around it.
fn checked<'a>(what: &str, value: &'a Bytes) -> Result<&'a RawValue> {
    serde_json::from_slice(value).map_err(|error| {
        Error::new(ErrorKind::Invalid, format!("{what} is not JSON")).because(error)
    })
}

fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    u64::try_from(since_1970(time).as_millis()).unwrap_or(u64::MAX)
}

/// The moment so many milliseconds after 1970. What no clock shows counts as 1970.
pub(super) fn moment(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::RemoteError;

    const MINUTE: Duration = Duration::from_secs(60);

    fn call() -> RpcMessage {
        let mut headers = Headers::new();
        headers.set("traceparent", "00-\u{1}");
        RpcMessage {
            id: "id \"1\"".into(),
            api: "shop.till".into(),
            procedure: "add".into(),
            fields: [("b", "1.10"), ("\u{2603}\n", "{\"x\": [1e400]}"), ("a", "null")]
                .into_iter()
                .map(|(name, value)| (Name::from(name), Bytes::from(value)))
                .collect(),
            headers,
            return_path: ReturnPath::new("pigeon:results:5c"),
            deadline: Instant::now() + MINUTE,
        }
    }

    #[test]
    fn the_written_form_is_that_of_the_documentation() {
        let mut call = call();
        call.fields = Arguments::from_iter([("username".into(), Bytes::from("\"admin\""))]);
        call.headers = Headers::new();
        let text = String::from_utf8(encode_call(&call, MINUTE).unwrap()).unwrap();
        let expires = text.split("\"expires\":").nth(1).unwrap().split(',').next().unwrap();
        let expected = format!(
            r#"{{"v":1,"id":"id \"1\"","api":"shop.till","procedure":"add","return_path":"pigeon:results:5c","expires":{expires},"headers":{{"time-left-ms":"60000"}},"fields":{{"username":"admin"}}}}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_call_reads_back_as_it_was_written_without_copies() {
        let sent = call();
        let raw = Bytes::from(encode_call(&sent, MINUTE).unwrap());
        let read = decode_call(&raw, None).unwrap();
        assert_eq!((&read.id, &read.api, &read.procedure), (&sent.id, &sent.api, &sent.procedure));
        assert_eq!((&read.return_path, &read.fields), (&sent.return_path, &sent.fields));
        assert_eq!(read.headers, sent.headers, "the time left is the deadline, no header");
        assert!(raw.as_ptr_range().contains(&read.fields.get("b").unwrap().as_ptr()));
    }

    #[test]
    fn a_deadline_goes_by_the_age_or_by_the_clock_and_never_beyond_the_time_left() {
        let left = |raw: &Bytes, age| {
            let call = decode_call(raw, age).unwrap();
            call.deadline.saturating_duration_since(Instant::now())
        };
        let near = |found: Duration, expected: u64| {
            let expected = Duration::from_secs(expected);
            assert!(found <= expected && found + Duration::from_secs(10) > expected, "{found:?}");
        };
        let raw = Bytes::from(encode_call(&call(), MINUTE).unwrap());
        near(left(&raw, None), 60);
        near(left(&raw, Some(Duration::from_secs(40))), 20);
        assert_eq!(left(&raw, Some(2 * MINUTE)), Duration::ZERO);
        // By a caller whose clock is wrong.
        let text = String::from_utf8(raw.to_vec()).unwrap();
        let (before, rest) = text.split_once("\"expires\":").unwrap();
        let after = &rest[rest.find(',').unwrap()..];
        let expiring = |at: u64| Bytes::from(format!("{before}\"expires\":{at}{after}"));
        near(left(&expiring(u64::MAX), None), 60);
        assert_eq!(left(&expiring(0), None), Duration::ZERO);
        near(left(&expiring(0), Some(Duration::ZERO)), 60);
    }

    #[test]
    fn results_and_errors_read_back() {
        let whole = RemoteError {
            message: "größer".into(),
            trace: Some("1\n2".into()),
            name: Some("TooShort".into()),
            detail: Some("null".into()),
        };
        let bare = RemoteError { message: String::new(), ..RemoteError::default() };
        for body in [Ok("null".into()), Ok("[1.0]".into()), Err(whole), Err(bare)] {
            let sent =
                ResultMessage { id: "r".into(), rpc_id: "c".into(), headers: Headers::new(), body };
            let read = decode_result(&encode_result(&sent).unwrap().into()).unwrap();
            assert_eq!((read.id, read.rpc_id, read.body), (sent.id, sent.rpc_id, sent.body));
        }
    }

    #[test]
    fn an_event_reads_back_with_whom_it_was_given_back_to() {
        let mut sent = EventMessage::new("e", "shop", "sold", 7, call().fields);
        sent.key = Some("k".into());
        let requeued = Requeued {
            group: "shop_-mail".into(),
            native_id: Some("12".into()),
            time: Some(moment(1_767_225_600_123)),
        };
        for requeued in [None, Some(requeued)] {
            let raw = encode_event(&sent, requeued.as_ref()).unwrap().into();
            let (read, found) = decode_event(&raw).unwrap();
            assert_eq!((&read.id, &read.event, read.version), (&sent.id, &sent.event, 7));
            assert_eq!((&read.key, &read.fields), (&sent.key, &sent.fields));
            assert_eq!(found, requeued);
        }
    }

    #[test]
    fn no_argument_can_break_out_of_the_message() {
        let mut bad = call();
        bad.fields.push("bad", "1},\"id\":\"other\",\"x\":{\"y\":2");
        let error = encode_call(&bad, MINUTE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("argument bad"), "{error}");
    }

    #[test]
    fn what_cannot_be_read_says_why_and_is_answered_where_possible() {
        for (raw, why, answerable) in [
            ("", "EOF", false),
            ("{no", "key must be", false),
            (r#"{"v":1,"id":"1","api":"a","procedure":"b","return_path":"p","fie"#, "EOF", true),
            ("[]", "", false),
            (r#"{"v":2,"id":"1","return_path":"p","then":{}}"#, "version 2", true),
            (r#"{"v":1,"id":"1","return_path":"p"}"#, "missing field", true),
            (
                r#"{"v":1,"id":"","api":"a","procedure":"b","return_path":"p"}"#,
                "`id` is empty",
                false,
            ),
            (
                r#"{"v":1,"id":"1","api":"a","procedure":"b","return_path":"p","fields":3}"#,
                "object",
                true,
            ),
        ] {
            let raw = Bytes::from(raw);
            let error = decode_call(&raw, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Malformed);
            assert!(error.message().contains(why), "{raw:?}: {error}");
            assert_eq!(salvage_call(&raw).is_some(), answerable, "{raw:?}");
        }
    }

    #[test]
    fn what_is_new_in_a_later_form_is_ignored() {
        let raw = r#"{"v":1,"id":"1","api":"a","procedure":"b","return_path":"p","new":[{}]}"#;
        assert_eq!(&*decode_call(&raw.into(), None).unwrap().id, "1");
    }

    #[test]
    fn no_cut_and_no_byte_panics() {
        let whole = encode_call(&call(), MINUTE).unwrap();
        for end in 0..whole.len() {
            let cut = Bytes::copy_from_slice(&whole[..end]);
            assert!(decode_call(&cut, None).is_err());
            assert!(decode_result(&cut).is_err());
            assert!(decode_event(&cut).is_err());
            let mut odd = whole.clone();
            odd[end] = 0xff;
            assert!(decode_call(&odd.into(), None).is_err());
        }
    }
}
