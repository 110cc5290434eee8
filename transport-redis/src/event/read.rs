//! Reads the entries of a listener's streams: its own pending ones, abandoned ones, and new ones.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use lightbus_core::{Rejection, Result, json};
use redis::{Pipeline, RedisError, Value};
use tokio::time::Instant;

use super::{
    codec::{self, Read},
    dead_letters::Content,
    deferred::Rejected,
    entry::{EntryId, RawEntry},
    group,
    loss::{self, Lost},
    source::{EntryRef, EventSource, Listener, State},
};
use crate::{
    error::{is_missing_group, odd_answer},
    link::{self, Link},
    reader::BLOCK,
    value,
};

/// The position in a stream.
#[derive(Clone, Copy)]
pub(super) struct Position {
    /// The newest entry seen.
    pub(super) last: EntryId,
    /// While own pending entries are read: the last one.
    pub(super) own: Option<EntryId>,
    /// While abandoned entries are looked for: where to continue.
    pub(super) abandoned: Option<EntryId>,
    /// When to check whether events were lost.
    pub(super) next_check: Instant,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            last: EntryId::ZERO,
            own: Some(EntryId::ZERO),
            abandoned: None,
            next_check: Instant::now(),
        }
    }
}

impl EventSource {
    /// Fills `ready`, if there is anything to hand out.
    pub(super) async fn fill(&self, state: &mut State, max: usize) -> Result<()> {
        let (link, new) = self.reader.take().await?;
        if new {
            // Entries that were on their way when the last connection broke are pending.
            for position in &mut state.streams {
                position.own = Some(EntryId::ZERO);
            }
        }
        match self.read(&link, state, max).await? {
            Ok(()) => {}
            Err(error) if is_missing_group(&error) => {
                self.restore(state).await?;
            }
            Err(error) => return Err(self.explain(error)),
        }
        self.reader.give_back(link);
        Ok(())
    }

    /// Reads own pending entries, then abandoned ones, then new ones, until there is one to hand out.
    async fn read(
        &self,
        link: &Link,
        state: &mut State,
        max: usize,
    ) -> Result<std::result::Result<(), RedisError>> {
        for index in 0..state.streams.len() {
            while let (true, Some(from)) = (state.ready.is_empty(), state.streams[index].own) {
                if let Err(error) = self.read_own(link, state, index, from, max).await? {
                    return Ok(Err(error));
                }
            }
        }
        if state.ready.is_empty()
            && state.next_reclaim <= Instant::now()
            && let Err(error) = self.read_abandoned(link, state, max).await?
        {
            return Ok(Err(error));
        }
        if !state.ready.is_empty() {
            return Ok(Ok(()));
        }
        for index in 0..state.streams.len() {
            if state.streams[index].next_check <= Instant::now() {
                state.streams[index].next_check = self.check_losses(link, index).await?;
            }
        }
        self.read_new(link, state, max).await
    }

    /// Checks whether events of a stream were lost, and returns when to check again.
    pub(super) async fn check_losses(&self, link: &Link, index: usize) -> Result<Instant> {
        let stream = &self.listener.streams[index].key;
        let check = loss::check(stream, &self.listener.group);
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(check);
        let answer = self.reader.request(link, link.pipeline(&pipeline)).await?.pop();
        let answer = answer.map_or(Ok(Value::Nil), link::answer);
        Ok(self.losses.checked(&self.listener, stream, answer))
    }

    /// Reads a page of this consumer's pending entries.
    async fn read_own(
        &self,
        link: &Link,
        state: &mut State,
        index: usize,
        from: EntryId,
        max: usize,
    ) -> Result<std::result::Result<(), RedisError>> {
        let Listener { group, consumer, .. } = &*self.listener;
        let key = &self.listener.streams[index].key;
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("XREADGROUP").arg("GROUP").arg(group).arg(consumer).arg("COUNT").arg(max);
        pipeline.arg("STREAMS").arg(key).arg(from.to_string());
        pipeline
            .cmd("XPENDING")
            .arg(key)
            .arg(group)
            .arg(format!("({from}"))
            .arg("+")
            .arg(max)
            .arg(consumer);
        let mut answers = self.reader.request(link, link.pipeline(&pipeline)).await?.into_iter();
        let entries = match answers.next().map(link::answer) {
            Some(Ok(answer)) => entries(answer)?.pop().map(|(_, entries)| entries),
            Some(Err(error)) => return Ok(Err(error)),
            None => None,
        }
        .unwrap_or_default();
        let attempts = attempts(answers.next());
        let last = entries.iter().rev().find_map(id_of);
        state.streams[index].own = last;
        self.classify(state, index, entries, &attempts, 2).await?;
        Ok(Ok(()))
    }

    /// Waits for new entries. Acknowledges skipped ones in the same round trip.
    async fn read_new(
        &self,
        link: &Link,
        state: &mut State,
        max: usize,
    ) -> Result<std::result::Result<(), RedisError>> {
        let Listener { group, consumer, streams, .. } = &*self.listener;
        let mut pipeline = Pipeline::with_capacity(1 + streams.len());
        self.acknowledge(&mut pipeline, state.skipped.iter().copied());
        // The count is per stream: entries beyond `max` wait in `ready`.
        pipeline.cmd("XREADGROUP").arg("GROUP").arg(group).arg(consumer);
        pipeline.arg("COUNT").arg((max / streams.len()).max(1));
        pipeline.arg("BLOCK").arg(u64::try_from(BLOCK.as_millis()).unwrap_or(1000)).arg("STREAMS");
        for stream in streams {
            pipeline.arg(&stream.key);
        }
        for _ in streams {
            pipeline.arg(">");
        }
        let Some(answers) = self.reader.blocking(link, link.pipeline(&pipeline)).await? else {
            return Ok(Ok(()));
        };
        let mut answers = answers.map_err(|error| self.explain(error))?;
        state.skipped.clear();
        let answer = match answers.pop().map(link::answer) {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Ok(Err(error)),
            None => Value::Nil,
        };
        let read = entries(answer)?;
        if read.is_empty() {
            // Idle: look for abandoned entries.
            state.next_reclaim = Instant::now();
        }
        for (key, entries) in read {
            let index = value::text(&key)
                .and_then(|key| streams.iter().position(|stream| stream.key == key))
                .ok_or_else(|| odd_answer("XREADGROUP", &key))?;
            self.classify(state, index, entries, &HashMap::new(), 1).await?;
        }
        Ok(Ok(()))
    }

    /// Classifies entries: to hand out, to skip, or to dead-letter.
    pub(super) async fn classify(
        &self,
        state: &mut State,
        index: usize,
        entries: Vec<Value>,
        attempts: &HashMap<EntryId, u32>,
        usual_attempt: u32,
    ) -> Result<()> {
        let stream = &self.listener.streams[index];
        let now = Instant::now();
        let mut unreadable = VecDeque::new();
        let mut lost = 0;
        for RawEntry { id, fields } in entries.into_iter().filter_map(RawEntry::new) {
            let entry = EntryRef { stream: index, id };
            state.streams[index].last = state.streams[index].last.max(id);
            if !stream.in_flight.insert(id, now) {
                continue;
            }
            let select = |api: &str, event: &str| codec::wanted(&self.listener.events, api, event);
            let attempt = attempts.get(&id).copied().unwrap_or(usual_attempt);
            match fields.map(|fields| codec::read(id, fields, attempt, select)) {
                Some(Read::Event(event)) => {
                    state.ready.push_back((Arc::new(*event), entry));
                    continue;
                }
                Some(Read::Malformed(reason, fields)) => {
                    unreadable.push_back((id, reason, fields));
                    continue;
                }
                Some(Read::Other) => state.skipped.push(entry),
                // Without fields: deleted or trimmed while it was pending.
                None => {
                    lost += 1;
                    state.skipped.push(entry);
                }
            }
            stream.in_flight.remove([id]);
        }
        if lost > 0 {
            self.losses.add(&self.listener, &stream.key, Lost::Pending, lost);
        }
        while let Some((id, reason, fields)) = unreadable.pop_front() {
            let entry = Value::Array(fields.clone());
            let entry = json::excerpt(format!("{entry:?}").as_bytes());
            tracing::warn!(stream = stream.key, group = self.listener.group, %id, reason, entry, "an event cannot be read and is dead-lettered");
            let rejected = Rejected {
                entry: EntryRef { stream: index, id },
                rejection: Rejection::from(reason),
                content: Content::Fields(fields),
            };
            match self.reject(rejected).await {
                Ok(true) => stream.in_flight.remove([id]),
                Ok(false) => {}
                Err(error) => {
                    // They are read again, as pending ones.
                    stream.in_flight.remove([id]);
                    stream.in_flight.remove(unreadable.into_iter().map(|(id, ..)| id));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Restores groups that have vanished.
    async fn restore(&self, state: &mut State) -> Result<()> {
        for (stream, position) in self.listener.streams.iter().zip(&mut state.streams) {
            let Listener { group, consumer, .. } = &*self.listener;
            let groups = group::list(self.client(), &stream.key).await?;
            if groups.iter().all(|info| info.name != *group) {
                group::restore(self.client(), &stream.key, group, consumer, position.last).await?;
                position.own = None;
                position.abandoned = None;
            }
        }
        Ok(())
    }
}

/// Returns the streams in an answer to `XREADGROUP`, each with its entries.
fn entries(answer: Value) -> Result<Vec<(Value, Vec<Value>)>> {
    let streams = match answer {
        Value::Nil => return Ok(Vec::new()),
        Value::Map(streams) => streams,
        Value::Array(streams) => streams
            .into_iter()
            .filter_map(|stream| <[Value; 2]>::try_from(value::items(stream)?).ok())
            .map(|[key, entries]| (key, entries))
            .collect(),
        other => return Err(odd_answer("XREADGROUP", &other)),
    };
    Ok(streams
        .into_iter()
        .map(|(key, entries)| (key, value::items(entries).unwrap_or_default()))
        .collect())
}

/// Returns the id of an entry, which may have no fields.
pub(super) fn id_of(entry: &Value) -> Option<EntryId> {
    match entry {
        Value::Array(entry) => EntryId::parse(value::text(entry.first()?)?),
        _ => None,
    }
}

/// Returns how often entries were delivered, from an answer to `XPENDING`.
pub(super) fn attempts(answer: Option<Value>) -> HashMap<EntryId, u32> {
    answer
        .and_then(value::items)
        .unwrap_or_default()
        .into_iter()
        .filter_map(value::items)
        .filter_map(|entry| {
            let id = EntryId::parse(value::text(entry.first()?)?)?;
            Some((id, u32::try_from(value::int(entry.get(3)?)?).ok()?))
        })
        .collect()
}
