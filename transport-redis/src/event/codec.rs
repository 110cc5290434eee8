//! Events as entries of streams: one field for each argument.

use bytes::Bytes;
use lightbus_core::{Arguments, EventMessage, Headers, Name, transport::EventSelector};
use redis::{Cmd, Value};
use serde::de::IgnoredAny;

use super::entry::EntryId;
use crate::{header, value};

/// A decoded entry.
pub(super) enum Read {
    /// An event that is selected.
    Event(Box<EventMessage>),
    /// An event that is not, or no event: to be acknowledged and skipped.
    Other,
    /// Why it cannot be read, with its fields.
    Malformed(String, Vec<Value>),
}

/// Decodes the fields of an entry. `select` returns the names of a selected event.
pub(super) fn read(
    id: EntryId,
    fields: Vec<Value>,
    attempt: u32,
    select: impl FnOnce(&str, &str) -> Option<(Name, Name)>,
) -> Read {
    match find_parts(&fields) {
        Ok(None) => Read::Other,
        Ok(Some(parts)) => match select(parts.api, parts.event) {
            None => Read::Other,
            Some((api, event)) => {
                let (message_id, version, headers) =
                    (Name::from(parts.id), parts.version, parts.headers);
                let mut arguments = Arguments::with_capacity((fields.len() / 2).saturating_sub(4));
                if let Err(reason) = check_arguments(&fields) {
                    return Read::Malformed(reason, fields);
                }
                let mut fields = fields.into_iter();
                while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
                    if let Some(name) = value::text(&name).and_then(|name| name.strip_prefix(':'))
                        && let Some(value) = value::bytes(value)
                    {
                        arguments.push(name, Bytes::from(value));
                    }
                }
                Read::Event(Box::new(EventMessage {
                    id: message_id,
                    api,
                    event,
                    version,
                    fields: arguments,
                    headers,
                    key: None,
                    native_id: Some(id.to_string().into()),
                    time: Some(id.time()),
                    attempt,
                }))
            }
        },
        Err(reason) => Read::Malformed(reason, fields),
    }
}

/// The parts of an event that are not arguments.
struct Parts<'a> {
    id: &'a str,
    api: &'a str,
    event: &'a str,
    version: u32,
    headers: Headers,
}

/// Finds the parts of an event. An entry that only created its stream has none.
fn find_parts(fields: &[Value]) -> Result<Option<Parts<'_>>, String> {
    let (mut id, mut api, mut event, mut version) = (None, None, None, None);
    let mut headers = Headers::new();
    let mut pairs = fields.chunks_exact(2);
    for pair in pairs.by_ref() {
        let Some(name) = value::text(&pair[0]) else {
            return Err("the name of a field is not UTF-8".into());
        };
        let field = match name {
            "id" => &mut id,
            "api_name" => &mut api,
            "event_name" => &mut event,
            "version" => &mut version,
            "" if fields.len() == 2 => return Ok(None),
            "" => {
                if let Value::BulkString(raw) = &pair[1] {
                    headers = header::decode_headers(raw);
                }
                continue;
            }
            // An argument, or a field of a later version.
            _ => continue,
        };
        *field = Some(value::text(&pair[1]).ok_or_else(|| format!("`{name}` is not UTF-8"))?);
    }
    let need = |field: Option<_>, name: &str| -> Result<_, String> {
        field
            .filter(|text: &&str| !text.is_empty())
            .ok_or_else(|| format!("the field `{name}` is missing"))
    };
    let (id, api, event) = (need(id, "id")?, need(api, "api_name")?, need(event, "event_name")?);
    let version = need(version, "version")?;
    let version =
        version.parse().map_err(|_| format!("the version `{version}` is not a whole number"))?;
    Ok(Some(Parts { id, api, event, version, headers }))
}

fn check_arguments(fields: &[Value]) -> Result<(), String> {
    for pair in fields.chunks_exact(2) {
        let Some(name) = value::text(&pair[0]).and_then(|name| name.strip_prefix(':')) else {
            continue;
        };
        let Value::BulkString(json) = &pair[1] else {
            return Err(format!("the argument `{name}` is not text"));
        };
        serde_json::from_slice::<IgnoredAny>(json)
            .map_err(|error| format!("the argument `{name}` is not JSON: {error}"))?;
    }
    Ok(())
}

/// Encodes an event as the command that adds it to its stream.
pub(super) fn xadd(stream: &str, max_length: Option<u64>, event: &EventMessage) -> Cmd {
    let size = stream.len() + event.fields.size() + event.fields.len() * 2 + 160;
    let mut add = Cmd::with_capacity(14 + event.fields.len() * 2, size);
    add.arg("XADD").arg(stream);
    if let Some(length) = max_length.filter(|length| *length > 0) {
        add.arg("MAXLEN").arg("~").arg(length);
    }
    add.arg("*");
    each_field(event, |bytes| {
        add.arg(bytes);
    });
    add
}

/// Returns the fields of an event's entry.
pub(super) fn fields(event: &EventMessage) -> Vec<Value> {
    let mut fields = Vec::with_capacity(10 + event.fields.len() * 2);
    each_field(event, |bytes| fields.push(Value::BulkString(bytes.to_vec())));
    fields
}

/// Passes on names and values of the fields of an event's entry, in turn.
fn each_field(event: &EventMessage, mut pass: impl FnMut(&[u8])) {
    pass(b"id");
    pass(event.id.as_bytes());
    pass(b"api_name");
    pass(event.api.as_bytes());
    pass(b"event_name");
    pass(event.event.as_bytes());
    pass(b"version");
    pass(event.version.to_string().as_bytes());
    let mut name = Vec::with_capacity(32);
    for (argument, json) in event.fields.iter() {
        name.clear();
        name.push(b':');
        name.extend_from_slice(argument.as_bytes());
        pass(&name);
        pass(json);
    }
    if !event.headers.is_empty() {
        let mut headers = Vec::with_capacity(64);
        header::write_headers(&mut headers, &event.headers);
        pass(b"");
        pass(&headers);
    }
}

/// Returns the names of a selected event, sharing the selector's.
pub(super) fn wanted(selectors: &[EventSelector], api: &str, event: &str) -> Option<(Name, Name)> {
    let selector = selectors.iter().find(|selector| selector.selects(api, event))?;
    let event = match &selector.event {
        Some(event) => Name::clone(event),
        None => Name::from(event),
    };
    Some((Name::clone(&selector.api), event))
}
