//! Dead letters: entries that could not be handled, kept with the reason.

mod requeue;

use async_trait::async_trait;
use lightbus_core::{
    Arguments, Error, ErrorKind, EventMessage, Headers, Name, Rejection, Result,
    transport::{DeadLetter, DeadLetters, GroupSpec},
};
use redis::{Cmd, Pipeline, Value};

use super::{
    codec::{self, Read},
    entry::{EntryId, RawEntry},
};

use super::{RedisEventTransport, WHAT};
use crate::{
    client::Client,
    error::{Sent, is_missing_group, odd_answer},
    value,
};

/// About how many dead letters a group keeps.
const KEPT: u32 = 10_000;
/// The most letters that are removed by one command.
const AT_ONCE: usize = 1000;
/// The most bytes of a reason that are kept.
const LONGEST_REASON: usize = 4096;

const REASON: &str = "dead_letter_reason";
pub(in crate::event) const STREAM: &str = "dead_letter_stream";
pub(in crate::event) const ENTRY: &str = "dead_letter_entry";
const ATTEMPTS: &str = "dead_letter_attempts";
const OWN_FIELDS: usize = 4;

/// The stream of a group's dead letters.
pub(in crate::event) fn key(group: &str) -> String {
    format!("{group}:dead_letters")
}

/// Sets an entry aside and acknowledges it, in one step. Without its fields they are read again;
/// one that was set aside before, or that another process has settled, is left alone.
pub(in crate::event) async fn set_aside(
    client: &Client,
    stream: &str,
    group: &str,
    id: EntryId,
    rejection: &Rejection,
    fields: Option<Vec<Value>>,
) -> Result<()> {
    let link = client.shared().await?;
    let entry_id = id.to_string();
    let mut look = Pipeline::with_capacity(2);
    look.cmd("XPENDING").arg(stream).arg(group).arg(&entry_id).arg(&entry_id).arg(1);
    look.cmd("XRANGE").arg(stream).arg(&entry_id).arg(&entry_id);
    let mut answers = link
        .pipeline(&look)
        .await
        .map_err(|error| client.explain(&link, error, Sent::Harmless))?
        .into_iter();
    let pending = match answers.next().map(crate::link::answer) {
        Some(Ok(pending)) => value::items(pending).unwrap_or_default().pop(),
        Some(Err(error)) if is_missing_group(&error) => None,
        Some(Err(error)) => return Err(client.explain(&link, error, Sent::Harmless)),
        None => None,
    };
    let Some(pending) = pending.and_then(value::items) else { return Ok(()) };
    let delivery = pending.get(3).and_then(value::int).unwrap_or(0);
    let attempts = rejection.attempts(u32::try_from(delivery).unwrap_or(0));
    let fields = fields.or_else(|| {
        let entries = value::items(answers.next()?)?;
        RawEntry::new(entries.into_iter().next()?)?.fields
    });
    let mut reason = rejection.reason();
    if reason.len() > LONGEST_REASON {
        let end = (0..=LONGEST_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason = &reason[..end];
    }
    let mut add = redis::cmd("XADD");
    add.arg(key(group)).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
    add.arg(REASON).arg(reason).arg(STREAM).arg(stream).arg(ENTRY).arg(&entry_id);
    add.arg(ATTEMPTS).arg(attempts);
    for field in fields.into_iter().flatten() {
        add.arg(value::bytes(field).unwrap_or_default());
    }
    let mut acknowledge = redis::cmd("XACK");
    acknowledge.arg(stream).arg(group).arg(&entry_id);
    let mut both = Pipeline::with_capacity(2);
    both.add_command(add).add_command(acknowledge);
    link.transaction(&mut both)
        .await
        .map(drop)
        .map_err(|error| client.explain(&link, error, Sent::Harmless))
}

/// Removes letters by their ids; gives how many there were.
async fn remove(client: &Client, group: &str, ids: &[EntryId]) -> Result<usize> {
    let mut removed = 0;
    // One command each: it holds up all others for as long as it takes.
    for ids in ids.chunks(AT_ONCE) {
        let mut delete = redis::cmd("XDEL");
        delete.arg(key(group));
        for id in ids {
            delete.arg(id.to_string());
        }
        let answer = client.command(&delete, Sent::Harmless).await?;
        removed += value::int(&answer).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
    }
    Ok(removed)
}

/// What a group set aside, oldest first.
async fn list(
    client: &Client,
    group: &str,
    after: Option<EntryId>,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let first = after.map_or_else(|| "-".to_owned(), |after| after.next().to_string());
    let mut range = Cmd::new();
    // Redis takes no more.
    let count = i64::try_from(limit).unwrap_or(i64::MAX);
    range.arg("XRANGE").arg(key(group)).arg(first).arg("+").arg("COUNT").arg(count);
    let answer = client.command(&range, Sent::Harmless).await?;
    let entries = value::items(answer).ok_or_else(|| odd_answer("XRANGE", &Value::Nil))?;
    Ok(entries.into_iter().filter_map(RawEntry::new).filter_map(|raw| read(raw, group)).collect())
}

fn read(raw: RawEntry, group: &str) -> Option<DeadLetter> {
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
        Read::Other => unreadable(native, attempts, &[]),
        Read::Malformed(_, fields) => unreadable(native, attempts, &fields),
    };
    Some(DeadLetter {
        id: raw.id.to_string().into(),
        event,
        group: group.into(),
        reason: text(REASON).unwrap_or_default().to_owned(),
        attempts,
        time: raw.id.time(),
    })
}

/// An event of which only parts can be read.
fn unreadable(id: EntryId, attempt: u32, fields: &[Value]) -> EventMessage {
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

#[async_trait]
impl DeadLetters for RedisEventTransport {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let client = self.handle.client(WHAT)?;
        let after = match after {
            Some(id) => Some(EntryId::parse(id).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "this is not the id of a dead letter").with("id", id)
            })?),
            None => None,
        };
        list(client, &self.group(group), after, limit).await
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let client = self.handle.client(WHAT)?;
        remove(client, &self.group(group), &entry_ids(ids)).await
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let client = self.handle.client(WHAT)?;
        let after = self.config.acknowledgement_timeout.0;
        requeue::requeue(client, &self.group(group), after, &entry_ids(ids)).await
    }
}

/// What is no entry's id is not the id of a dead letter, and ignored.
fn entry_ids(ids: &[Name]) -> Vec<EntryId> {
    ids.iter().filter_map(|id| EntryId::parse(id)).collect()
}
