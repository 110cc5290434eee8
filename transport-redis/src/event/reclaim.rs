//! Takes over entries that other consumers have abandoned.
//!
//! `XAUTOCLAIM` checks ten times as many pending entries as it may claim, and a listener claims no more
//! than it has room for: one, often. An abandoned entry may be behind thousands that other processes
//! hold, so what a claim leaves unchecked is searched in pages, without claiming: a claim with an idle
//! time that no entry has returns where its page ends, and `XPENDING` with the right idle time names the
//! first abandoned entry of the page. Neither returns entries.
//!
//! A look has a limited number of pages. The next one, a second later at the earliest, continues where it
//! ended; a pass that always began at the first entry would never get past those that others hold. A pass
//! that found the end is followed by another, in an idle listener after a second, otherwise after
//! `reclaim_interval`. Held by `an_abandoned_event_behind_many_pending_ones_is_taken_over`
//! (tests/transport/reclaim.rs).

use std::time::Duration;

use lightbus_core::{Result, time::after};
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::time::Instant;

use super::{
    entry::EntryId,
    loss::Lost,
    read::{attempts, id_of},
    source::{EventSource, Listener, State},
};
use crate::{
    link::{self, Link},
    value,
};

/// How many pending entries `XAUTOCLAIM` checks for each that it may claim.
const CHECKED_PER_CLAIM: usize = 10;
/// The most pages in a look at a stream.
const PAGES: usize = 4;
/// How long to wait before a pass is continued.
const PAUSE: Duration = Duration::from_secs(1);

/// When to look for abandoned entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reclaim {
    /// After how long without acknowledgement an entry counts as abandoned.
    pub(super) after: Duration,
    pub(super) interval: Duration,
    /// How many pending entries a page has.
    pub(super) batch: usize,
}

/// A step whose commands the server may refuse.
type Answered<T> = Result<std::result::Result<T, RedisError>>;

impl Reclaim {
    fn idle(&self) -> u64 {
        u64::try_from(self.after.as_millis()).unwrap_or(u64::MAX)
    }
}

impl EventSource {
    /// Looks for abandoned entries, and takes over at most `max`.
    pub(super) async fn read_abandoned(
        &self,
        link: &Link,
        state: &mut State,
        max: usize,
    ) -> Answered<()> {
        if state.streams.iter().all(|position| position.abandoned.is_none()) {
            for position in &mut state.streams {
                position.abandoned = Some(EntryId::ZERO);
            }
        }
        for index in 0..state.streams.len() {
            if !state.ready.is_empty() {
                break;
            }
            if let Err(error) = self.look(link, state, index, max).await? {
                return Ok(Err(error));
            }
        }
        let over = state.streams.iter().all(|position| position.abandoned.is_none());
        state.next_reclaim = match (over, state.ready.is_empty()) {
            (true, _) => after(Instant::now(), self.reclaim.interval),
            // Where one was abandoned, its neighbours may be too.
            (false, false) => Instant::now(),
            (false, true) => after(Instant::now(), self.reclaim.interval.min(PAUSE)),
        };
        Ok(Ok(()))
    }

    /// Continues the pass through a stream: claims, then searches page by page.
    async fn look(&self, link: &Link, state: &mut State, index: usize, max: usize) -> Answered<()> {
        for _ in 0..PAGES {
            let Some(from) = state.streams[index].abandoned else { break };
            if let Err(error) = self.claim(link, state, index, from, max).await? {
                return Ok(Err(error));
            }
            let (true, Some(from)) = (state.ready.is_empty(), state.streams[index].abandoned)
            else {
                break;
            };
            match self.search(link, state, index, from).await? {
                Ok(next) => state.streams[index].abandoned = next,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }

    /// Claims abandoned entries among the next pending ones.
    async fn claim(
        &self,
        link: &Link,
        state: &mut State,
        index: usize,
        from: EntryId,
        max: usize,
    ) -> Answered<()> {
        let Listener { group, consumer, .. } = &*self.listener;
        let key = &self.listener.streams[index].key;
        let claim = self.xautoclaim(index, self.reclaim.idle(), from, max.min(self.reclaim.batch));
        let answer = match self.answer(link, claim).await? {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        };
        let Claimed { next, entries, deleted } = Claimed::read(answer);
        self.note_deleted(state, index, &deleted);
        state.streams[index].abandoned = next;
        let (Some(first), Some(last)) =
            (entries.iter().find_map(id_of), entries.iter().rev().find_map(id_of))
        else {
            return Ok(Ok(()));
        };
        let mut pending = redis::cmd("XPENDING");
        pending.arg(key).arg(group).arg(first.to_string()).arg(last.to_string());
        pending.arg(entries.len()).arg(consumer);
        let counts = self.reader.request(link, link.command(&pending)).await.ok();
        tracing::debug!(
            stream = key,
            group,
            events = entries.len(),
            "abandoned events of other processes were taken over"
        );
        self.classify(state, index, entries, &attempts(counts), 2).await?;
        Ok(Ok(()))
    }

    /// Searches the next page of pending entries. Returns where to claim: at the first abandoned one, or
    /// behind the page; `None` at the end.
    async fn search(
        &self,
        link: &Link,
        state: &State,
        index: usize,
        from: EntryId,
    ) -> Answered<Option<EntryId>> {
        let mut page = self.xautoclaim(
            index,
            // Redis reads a signed number.
            i64::MAX.unsigned_abs(),
            from,
            self.reclaim.batch.div_ceil(CHECKED_PER_CLAIM),
        );
        page.arg("JUSTID");
        let next = match self.answer(link, page).await? {
            Ok(answer) => {
                let Claimed { next, deleted, .. } = Claimed::read(answer);
                self.note_deleted(state, index, &deleted);
                next
            }
            Err(error) => return Ok(Err(error)),
        };
        let mut abandoned = redis::cmd("XPENDING");
        abandoned.arg(&self.listener.streams[index].key).arg(&self.listener.group);
        abandoned.arg("IDLE").arg(self.reclaim.idle()).arg(from.to_string());
        abandoned.arg(next.map_or_else(|| "+".to_owned(), |next| format!("({next}"))).arg(1);
        Ok(self.answer(link, abandoned).await?.map(|found| {
            let first = value::items(found).and_then(|found| found.into_iter().next());
            first.as_ref().and_then(id_of).or(next)
        }))
    }

    /// Notes pending entries that are not in their stream any more: Redis has dropped them from the group.
    /// Those that this process handles are not lost, and those that it is about to acknowledge are counted.
    fn note_deleted(&self, state: &State, index: usize, deleted: &[EntryId]) {
        let stream = &self.listener.streams[index];
        let skipped =
            |id| state.skipped.iter().any(|entry| entry.stream == index && entry.id == id);
        let lost = deleted.iter().filter(|id| !stream.in_flight.contains(**id) && !skipped(**id));
        let lost = lost.count();
        if lost > 0 {
            self.losses.add(&self.listener, &stream.key, Lost::Pending, lost as u64);
        }
    }

    fn xautoclaim(&self, index: usize, idle: u64, from: EntryId, count: usize) -> Cmd {
        let Listener { group, consumer, streams, .. } = &*self.listener;
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg(&streams[index].key).arg(group).arg(consumer).arg(idle);
        claim.arg(from.to_string()).arg("COUNT").arg(count);
        claim
    }

    /// Returns the answer to a command, or the server's refusal.
    async fn answer(&self, link: &Link, command: Cmd) -> Answered<Value> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(command);
        let answer = self.reader.request(link, link.pipeline(&pipeline)).await?.pop();
        Ok(answer.map_or(Ok(Value::Nil), link::answer))
    }
}

/// The answer to `XAUTOCLAIM`.
struct Claimed {
    /// Where to continue; `None` at the end.
    next: Option<EntryId>,
    entries: Vec<Value>,
    /// Those that were pending and are not in the stream any more. Redis 6 does not name them.
    deleted: Vec<EntryId>,
}

impl Claimed {
    fn read(answer: Value) -> Self {
        let mut parts = value::items(answer).unwrap_or_default().into_iter();
        let next = parts.next().as_ref().and_then(value::text).and_then(EntryId::parse);
        Self {
            next: next.filter(|next| *next != EntryId::ZERO),
            entries: parts.next().and_then(value::items).unwrap_or_default(),
            deleted: parts
                .next()
                .and_then(value::items)
                .unwrap_or_default()
                .iter()
                .filter_map(|id| EntryId::parse(value::text(id)?))
                .collect(),
        }
    }
}
