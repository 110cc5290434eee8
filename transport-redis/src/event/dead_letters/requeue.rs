//! Requeues dead letters to their group.
//!
//! The event is still in its stream, so nothing is added to it. Its entry is made pending for the group
//! again, as if a process had taken it long ago and died. The next process of the group that checks for
//! abandoned entries takes it over, in Rust or in Python. Other groups do not notice.

use std::{collections::BTreeMap, time::Duration};

use lightbus_core::{Error, ErrorKind, Result};
use redis::{Pipeline, Value};

use super::codec;
use crate::{
    client::Client,
    error::{Sent, from_redis, is_missing_group},
    event::{
        entry::{EntryId, RawEntry},
        group,
    },
    link, value,
};

/// The most dead letters that are requeued at once.
const BATCH: usize = 500;
/// How long ago it counts as taken, at least: members may have a longer timeout than this process.
const LONG_AGO: Duration = Duration::from_secs(24 * 3600);
/// The consumer for which it is pending if the group has none: the first member takes it over.
const PLACEHOLDER: &str = "lightbus-retry";

/// A dead letter, and where its event is.
struct Letter {
    id: EntryId,
    stream: String,
    entry: EntryId,
}

/// Makes the events of dead letters pending for their group, removes the dead letters, and returns how
/// many there were.
pub(in crate::event) async fn requeue(
    client: &Client,
    group: &str,
    after: Duration,
    ids: &[EntryId],
) -> Result<usize> {
    let mut retried = 0;
    for ids in ids.chunks(BATCH) {
        let letters = find(client, group, ids).await?;
        let mut streams: BTreeMap<&str, Vec<&Letter>> = BTreeMap::new();
        for letter in &letters {
            streams.entry(&letter.stream).or_default().push(letter);
        }
        // All are checked first, so that most errors leave every dead letter where it was.
        for (stream, letters) in &streams {
            check(client, group, stream, letters).await?;
        }
        for (stream, letters) in &streams {
            make_pending(client, group, stream, after, letters).await?;
            let ids: Vec<_> = letters.iter().map(|letter| letter.id).collect();
            retried += super::remove(client, group, &ids).await?;
        }
    }
    Ok(retried)
}

/// Reads where the events of dead letters are. Dead letters that do not exist are ignored.
async fn find(client: &Client, group: &str, ids: &[EntryId]) -> Result<Vec<Letter>> {
    let key = super::key(group);
    let mut look = Pipeline::with_capacity(ids.len());
    for id in ids {
        look.cmd("XRANGE").arg(&key).arg(id.to_string()).arg(id.to_string());
    }
    let mut letters = Vec::with_capacity(ids.len());
    for entry in each(client, &look).await? {
        let entry = entry.map_err(|error| from_redis(error, client.broker(), Sent::Harmless))?;
        let entry = value::items(entry).and_then(|entries| entries.into_iter().next());
        let Some(RawEntry { id, fields: Some(fields) }) = entry.and_then(RawEntry::new) else {
            continue;
        };
        let Some((stream, entry)) = codec::origin(fields) else {
            return Err(Error::new(
                ErrorKind::Malformed,
                "a dead letter does not name its original entry",
            )
            .with("id", id)
            .with("stream", key));
        };
        letters.push(Letter { id, stream, entry });
    }
    Ok(letters)
}

/// Fails unless the group and the events still exist.
async fn check(client: &Client, group: &str, stream: &str, letters: &[&Letter]) -> Result<()> {
    if group::list(client, stream).await?.iter().all(|known| known.name != group) {
        return Err(Error::new(ErrorKind::Unknown, "the consumer group does not exist any more")
            .with("group", group)
            .with("stream", stream)
            .hint("Start the listener once, so that its group exists, and requeue the dead letters then"));
    }
    let mut look = Pipeline::with_capacity(letters.len());
    for Letter { entry, .. } in letters {
        look.cmd("XRANGE").arg(stream).arg(entry.to_string()).arg(entry.to_string());
    }
    for (entry, letter) in each(client, &look).await?.into_iter().zip(letters) {
        let entry = entry.map_err(|error| from_redis(error, client.broker(), Sent::Harmless))?;
        if value::items(entry).is_none_or(|entries| entries.is_empty()) {
            return Err(gone(stream, letter));
        }
    }
    Ok(())
}

fn gone(stream: &str, letter: &Letter) -> Error {
    Error::new(ErrorKind::Unknown, "the event of a dead letter is not in its stream any more: it was trimmed or deleted")
        .with("id", letter.id)
        .with("event", letter.entry)
        .with("stream", stream)
        .hint("The dead letter is kept, with the whole event: let the service call `handle_dead_letters`, or fire the event again")
}

/// Makes entries pending for the group, for so long that the next check takes them over. An entry that
/// is pending already stays with its consumer.
async fn make_pending(
    client: &Client,
    group: &str,
    stream: &str,
    after: Duration,
    letters: &[&Letter],
) -> Result<()> {
    let mut look = Pipeline::with_capacity(letters.len());
    for Letter { entry, .. } in letters {
        let entry = entry.to_string();
        look.cmd("XPENDING").arg(stream).arg(group).arg(&entry).arg(&entry).arg(1);
    }
    let mut lost = Vec::with_capacity(letters.len());
    for (pending, letter) in each(client, &look).await?.into_iter().zip(letters) {
        let pending =
            pending.map_err(|error| from_redis(error, client.broker(), Sent::Harmless))?;
        if value::items(pending).is_none_or(|pending| pending.is_empty()) {
            lost.push(*letter);
        }
    }
    let consumer = consumer(client, group, stream).await?;
    let idle = u64::try_from(after.max(LONG_AGO).as_millis()).unwrap_or(u64::MAX);
    let mut claim = Pipeline::with_capacity(lost.len());
    for Letter { entry, .. } in &lost {
        claim.cmd("XCLAIM").arg(stream).arg(group).arg(&consumer).arg(0).arg(entry.to_string());
        claim.arg("IDLE").arg(idle.saturating_add(1)).arg("RETRYCOUNT").arg(0);
        claim.arg("FORCE").arg("JUSTID");
    }
    for (claimed, letter) in each(client, &claim).await?.into_iter().zip(lost) {
        match claimed.map(|claimed| value::items(claimed).unwrap_or_default()) {
            Ok(claimed) if !claimed.is_empty() => {}
            // Trimmed, or the group was destroyed, after the check.
            Ok(_) => return Err(gone(stream, letter)),
            Err(error) if is_missing_group(&error) => return Err(gone(stream, letter)),
            Err(error) => return Err(from_redis(error, client.broker(), Sent::Harmless)),
        }
    }
    Ok(())
}

/// Returns the consumer for which entries are made pending: the one that was active last, so that the
/// group gets no new name, nor entries of a consumer that is about to be removed as idle.
async fn consumer(client: &Client, group: &str, stream: &str) -> Result<String> {
    let mut info = redis::cmd("XINFO");
    info.arg("CONSUMERS").arg(stream).arg(group);
    let consumers = client.command(&info, Sent::Harmless).await?;
    let known = value::items(consumers).unwrap_or_default().into_iter().filter_map(|consumer| {
        let consumer = value::pairs(consumer)?;
        let idle = value::get(&consumer, "idle").and_then(value::int)?;
        Some((idle, value::get(&consumer, "name").and_then(value::text)?.to_owned()))
    });
    Ok(known.min().map_or_else(|| PLACEHOLDER.to_owned(), |(_, name)| name))
}

/// Returns the answer to each command.
async fn each(client: &Client, pipeline: &Pipeline) -> Result<Vec<redis::RedisResult<Value>>> {
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    let answers = client.pipeline(pipeline, Sent::Harmless).await?;
    Ok(answers.into_iter().map(link::answer).collect())
}
