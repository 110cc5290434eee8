//! Dead letters: a stream for each group, with the entries that were rejected and why.

mod codec;
mod requeue;

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, EventMessage, Name, Rejection, Result,
    transport::{DeadLetter, DeadLetters, GroupSpec},
};
use redis::{Cmd, Pipeline, Value};

use super::{
    RedisEventTransport, codec as event_codec,
    entry::{EntryId, RawEntry},
};
use crate::{
    client::Client,
    error::{Sent, breaks_connection, cause, is_missing_group, odd_answer},
    value,
};

/// Approximately how many dead letters a group keeps.
const KEPT: u32 = 10_000;
/// The most dead letters that one command removes.
const BATCH: usize = 1000;
/// How many dead letters are read to find out whether there is one of an entry already.
const LATEST: usize = 50;

/// What is known of a rejected entry.
#[derive(Debug)]
pub(super) enum Content {
    /// Its event. The entry has more, if it is still in its stream.
    Event(Arc<EventMessage>),
    /// All its fields.
    Fields(Vec<Value>),
}

impl Content {
    /// Returns about how many bytes it holds.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Event(event) => event.fields.size(),
            Self::Fields(fields) => fields
                .iter()
                .map(|field| match field {
                    Value::BulkString(bytes) => bytes.len(),
                    _ => 0,
                })
                .sum(),
        }
    }

    fn attempt(&self) -> u32 {
        match self {
            Self::Event(event) => event.attempt,
            Self::Fields(_) => 0,
        }
    }
}

/// Whether a dead letter is stored.
#[derive(Debug)]
pub(super) enum Stored {
    Yes,
    /// The server refused it, and answers otherwise.
    Refused(Error),
}

/// Returns the stream of a group's dead letters.
pub(super) fn key(group: &str) -> String {
    format!("{group}:dead_letters")
}

/// Dead-letters an entry and acknowledges it, in one step.
///
/// An entry that is not pending any more was dead-lettered before, or settled by another process: it is
/// left alone. One that was trimmed may not be pending either, because whoever looks for abandoned
/// entries then drops it from the group. This process has its event, and dead-letters it unless that has
/// happened.
pub(super) async fn add(
    client: &Client,
    (stream, group, id): (&str, &str, EntryId),
    rejection: &Rejection,
    content: &Content,
) -> Result<Stored> {
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
        Some(Err(error)) => {
            return Ok(Stored::Refused(client.explain(&link, error, Sent::Harmless)));
        }
        None => None,
    };
    let pending = pending.and_then(value::items);
    let entry = answers
        .next()
        .and_then(value::items)
        .and_then(|entries| RawEntry::new(entries.into_iter().next()?)?.fields);
    let delivery = match &pending {
        Some(pending) => pending.get(3).and_then(value::int).unwrap_or(0),
        None if entry.is_none() && !is_known(client, group, (stream, id)).await? => {
            i64::from(content.attempt())
        }
        None => return Ok(Stored::Yes),
    };
    let attempts = rejection.attempts(u32::try_from(delivery).unwrap_or(0));
    let fields = match (content, entry) {
        (Content::Fields(fields), _) => fields.clone(),
        (Content::Event(_), Some(entry)) => entry,
        (Content::Event(event), None) => event_codec::fields(event),
    };
    let mut add = redis::cmd("XADD");
    add.arg(key(group)).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
    codec::write(&mut add, rejection.reason(), (stream, &entry_id), attempts, fields);
    let mut acknowledge = redis::cmd("XACK");
    acknowledge.arg(stream).arg(group).arg(&entry_id);
    let mut both = Pipeline::with_capacity(2);
    both.add_command(add).add_command(acknowledge);
    match link.transaction(&mut both).await {
        Ok(_) => Ok(Stored::Yes),
        Err(error) if breaks_connection(&error) => {
            Err(client.explain(&link, error, Sent::Harmless))
        }
        Err(error) => Ok(Stored::Refused(client.explain(&link, cause(error), Sent::Harmless))),
    }
}

/// Whether one of the latest dead letters is this entry's.
async fn is_known(client: &Client, group: &str, (stream, id): (&str, EntryId)) -> Result<bool> {
    let mut latest = redis::cmd("XREVRANGE");
    latest.arg(key(group)).arg("+").arg("-").arg("COUNT").arg(LATEST);
    let answer = client.command(&latest, Sent::Harmless).await?;
    let fields = value::items(answer).unwrap_or_default().into_iter().filter_map(RawEntry::new);
    let mut origins = fields.filter_map(|raw| codec::origin(raw.fields?));
    Ok(origins.any(|origin| origin == (stream.to_owned(), id)))
}

/// Removes dead letters by their ids, and returns how many there were.
async fn remove(client: &Client, group: &str, ids: &[EntryId]) -> Result<usize> {
    let mut removed = 0;
    // In several commands, because Redis serves no other client during one.
    for ids in ids.chunks(BATCH) {
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

/// Returns the dead letters of a group, oldest first.
async fn list(
    client: &Client,
    (spec, group): (&GroupSpec, &str),
    after: Option<EntryId>,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let first = after.map_or_else(|| "-".to_owned(), |after| after.next().to_string());
    let mut range = Cmd::new();
    // Redis refuses a larger number.
    let count = i64::try_from(limit).unwrap_or(i64::MAX);
    range.arg("XRANGE").arg(key(group)).arg(first).arg("+").arg("COUNT").arg(count);
    let answer = client.command(&range, Sent::Harmless).await?;
    let entries = value::items(answer).ok_or_else(|| odd_answer("XRANGE", &Value::Nil))?;
    Ok(entries
        .into_iter()
        .filter_map(RawEntry::new)
        .filter_map(|raw| codec::read(raw, spec))
        .collect())
}

#[async_trait]
impl DeadLetters for RedisEventTransport {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let client = self.handle.client()?;
        let after = match after {
            Some(id) => Some(EntryId::parse(id).ok_or_else(|| {
                Error::new(ErrorKind::Invalid, "this is not the id of a dead letter").with("id", id)
            })?),
            None => None,
        };
        list(client, (group, &self.group(group)), after, limit).await
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let client = self.handle.client()?;
        remove(client, &self.group(group), &entry_ids(ids)).await
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let client = self.handle.client()?;
        let after = self.config.acknowledgement_timeout.0;
        requeue::requeue(client, &self.group(group), after, &entry_ids(ids)).await
    }
}

/// Parses ids. An id that is not an entry's is not a dead letter's either, and is ignored.
fn entry_ids(ids: &[Name]) -> Vec<EntryId> {
    ids.iter().filter_map(|id| EntryId::parse(id)).collect()
}
