//! Dead letters as entries: four fields of their own, then those of the event as it was.

use lightbus_core::{
    Arguments, EventMessage, Headers, Name,
    transport::{DeadLetter, GroupSpec},
};
use redis::{Cmd, Value};

use crate::{
    event::{
        codec::{self, Read},
        entry::{EntryId, RawEntry},
    },
    value,
};

/// The most bytes of a reason that are kept.
const MAX_REASON: usize = 4096;

const REASON: &str = "dead_letter_reason";
const STREAM: &str = "dead_letter_stream";
const ENTRY: &str = "dead_letter_entry";
const ATTEMPTS: &str = "dead_letter_attempts";
const OWN_FIELDS: usize = 4;

/// Adds the fields of a dead letter to an `XADD`: why and where the entry was rejected, and after how
/// many attempts, then the entry's own fields.
pub(super) fn write(
    add: &mut Cmd,
    reason: &str,
    (stream, entry): (&str, &str),
    attempts: u32,
    fields: Vec<Value>,
) {
    let mut end = reason.len().min(MAX_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    add.arg(REASON).arg(&reason[..end]).arg(STREAM).arg(stream).arg(ENTRY).arg(entry);
    add.arg(ATTEMPTS).arg(attempts);
    for field in fields {
        add.arg(value::bytes(field).unwrap_or_default());
    }
}

/// Returns the stream and the entry from which a dead letter came, if its fields name them.
pub(super) fn origin(fields: Vec<Value>) -> Option<(String, EntryId)> {
    let fields = value::pairs(Value::Array(fields))?;
    let text = |name| value::get(&fields, name).and_then(value::text);
    Some((text(STREAM)?.to_owned(), EntryId::parse(text(ENTRY)?)?))
}

/// Reads a dead letter; `None` for an entry without fields.
pub(super) fn read(raw: RawEntry, group: &GroupSpec) -> Option<DeadLetter> {
    let mut own = raw.fields?;
    let original = own.split_off(own.len().min(2 * OWN_FIELDS));
    let own = value::pairs(Value::Array(own))?;
    let text = |name| value::get(&own, name).and_then(value::text);
    let attempts = value::get(&own, ATTEMPTS).and_then(value::int).unwrap_or(0);
    let attempts = u32::try_from(attempts).unwrap_or(0);
    let native = text(ENTRY).and_then(EntryId::parse).unwrap_or_default();
    let names = |api: &str, event: &str| Some((Name::from(api), Name::from(event)));
    let event = match codec::read(native, original, attempts, names) {
        Read::Event(event) => *event,
        Read::Other => salvage(native, attempts, &[]),
        Read::Malformed(_, fields) => salvage(native, attempts, &fields),
    };
    Some(DeadLetter {
        id: raw.id.to_string().into(),
        event,
        group: group.clone(),
        reason: text(REASON).unwrap_or_default().to_owned(),
        attempts,
        time: raw.id.time(),
    })
}

/// Reads what can be read of a malformed event.
fn salvage(id: EntryId, attempt: u32, fields: &[Value]) -> EventMessage {
    let text = |name: &str| {
        fields
            .chunks_exact(2)
            .find(|pair| value::text(&pair[0]) == Some(name))
            .and_then(|pair| value::text(&pair[1]))
            .unwrap_or_default()
    };
    let arguments: Arguments = fields
        .chunks_exact(2)
        .filter_map(|pair| {
            let name = value::text(&pair[0])?.strip_prefix(':')?;
            let value = value::bytes(pair[1].clone())?;
            Some((Name::from(name), value.into()))
        })
        .collect();
    EventMessage {
        headers: Headers::new(),
        native_id: Some(id.to_string().into()),
        time: Some(id.time()),
        attempt,
        ..EventMessage::new(
            text("id"),
            text("api_name"),
            text("event_name"),
            text("version").parse().unwrap_or(0),
            arguments,
        )
    }
}
