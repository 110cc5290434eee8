//! Dead letters: a stream for each group, with the entries that were rejected and why.

mod codec;
mod requeue;

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, Name, Rejection, Result,
    transport::{DeadLetter, DeadLetters, GroupSpec},
};
use redis::{Cmd, Pipeline, Value};

use super::{
    RedisEventTransport,
    entry::{EntryId, RawEntry},
};
use crate::{
    client::Client,
    error::{Sent, is_missing_group, odd_answer},
    value,
};

/// Approximately how many dead letters a group keeps.
const KEPT: u32 = 10_000;
/// The most dead letters that one command removes.
const BATCH: usize = 1000;

/// Returns the stream of a group's dead letters.
pub(super) fn key(group: &str) -> String {
    format!("{group}:dead_letters")
}

/// Dead-letters an entry and acknowledges it, in one step. Without `fields` they are read again. An
/// entry that is not pending any more was dead-lettered before, or settled by another process: it is
/// left alone.
pub(super) async fn add(
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
    let mut add = redis::cmd("XADD");
    add.arg(key(group)).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
    codec::write(&mut add, rejection.reason(), (stream, &entry_id), attempts, fields);
    let mut acknowledge = redis::cmd("XACK");
    acknowledge.arg(stream).arg(group).arg(&entry_id);
    let mut both = Pipeline::with_capacity(2);
    both.add_command(add).add_command(acknowledge);
    link.transaction(&mut both)
        .await
        .map(drop)
        .map_err(|error| client.explain(&link, error, Sent::Harmless))
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
