//! Takes events from streams, and settles them.
//!
//! The driver calls `fetch` one at a time, on a connection that only this source uses ([`Reader`]).
//! `settle` may run at the same time, on the connection for sends. A fetch reads, in this order:
//!
//! 1. this consumer's own pending entries, after each new connection: entries that were on their way
//!    when the last connection broke are pending;
//! 2. entries that other consumers have abandoned: each `reclaim_interval`, or each second when idle;
//! 3. new entries, for which it blocks at the server for at most a second.
//!
//! What is known between two fetches ([`State`]) is taken out of its mutex by the fetch in progress. A
//! fetch that is dropped loses it, and no event: what it had read is pending, and read again as in 1.
//!
//! So an entry may be read while its handler still runs: as one's own (1), or as abandoned, if the
//! handler takes longer than `acknowledgement_timeout` (2). [`InFlight`] has all entries that this
//! process has handed out, and those are skipped; the [`LeaseRenewer`]'s task keeps other processes from
//! taking them over. An entry leaves `InFlight` only after Redis has acknowledged it. Held by
//! `a_slow_handler_keeps_its_event_and_a_dead_one_loses_it` and
//! `listeners_survive_a_restart_and_killed_connections` (tests/transport/events.rs).
//!
//! A group can vanish under a listener (`FLUSHALL`, or a crash of a Redis that does not persist). It is
//! restored at the newest entry seen: `a_group_that_vanishes_is_made_again_and_misses_nothing`.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lightbus_core::{
    Closing, EventMessage, Outcome, Rejection, Result, Source, json, transport::EventSelector,
};
use redis::{Pipeline, RedisError, Value};
use tokio::time::Instant;

use super::{
    WHAT,
    codec::{self, Read},
    dead_letters,
    entry::{EntryId, RawEntry},
    group,
    in_flight::InFlight,
    lease::LeaseRenewer,
};
use crate::{
    client::Client,
    error::{Sent, from_redis, is_missing_group, odd_answer},
    link::{self, Link},
    reader::{BLOCK, Reader},
    value,
};

/// What a listener reads, and as which consumer.
pub(super) struct Listener {
    pub(super) group: String,
    pub(super) consumer: String,
    pub(super) events: Vec<EventSelector>,
    pub(super) streams: Vec<Stream>,
}

/// One of its streams.
pub(super) struct Stream {
    pub(super) key: String,
    pub(super) in_flight: InFlight,
}

/// When to look for abandoned entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reclaim {
    /// After how long without acknowledgement an entry counts as abandoned.
    pub(super) after: Duration,
    pub(super) interval: Duration,
    pub(super) batch: usize,
}

/// Takes the events of a listener.
pub(super) struct EventSource {
    reader: Reader,
    listener: Arc<Listener>,
    reclaim: Reclaim,
    state: Mutex<Option<State>>,
    _lease: LeaseRenewer,
}

/// What is known between one fetch and the next.
struct State {
    streams: Vec<Position>,
    /// Read and not handed out yet.
    ready: VecDeque<(Arc<EventMessage>, EventToken)>,
    /// Skipped, and to be acknowledged with the next read.
    skipped: Vec<EventToken>,
    next_reclaim: Instant,
}

/// The position in a stream.
#[derive(Clone, Copy)]
struct Position {
    /// The newest entry seen.
    last: EntryId,
    /// While own pending entries are read: the last one.
    own: Option<EntryId>,
    /// While abandoned entries are claimed: where to continue.
    abandoned: Option<EntryId>,
}

/// What settling an event needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventToken {
    stream: usize,
    id: EntryId,
}

impl EventSource {
    /// Connects. `last` is the group's position in each stream.
    pub(super) async fn start(
        client: &Arc<Client>,
        closing: &Arc<Closing>,
        listener: Listener,
        reclaim: Reclaim,
        last: &[EntryId],
    ) -> Result<Self> {
        let listener = Arc::new(listener);
        let reader = Reader::new(
            Arc::clone(client),
            Arc::clone(closing),
            listener.streams.first().map_or("", |stream| &*stream.key),
        );
        let (link, _) = reader.take().await?;
        reader.give_back(link);
        let streams = last
            .iter()
            .map(|last| Position { last: *last, own: Some(EntryId::ZERO), abandoned: None })
            .collect();
        Ok(Self {
            _lease: LeaseRenewer::start(Arc::clone(client), Arc::clone(&listener), reclaim.after),
            reader,
            listener,
            reclaim,
            state: Mutex::new(Some(State {
                streams,
                ready: VecDeque::new(),
                skipped: Vec::new(),
                next_reclaim: Instant::now(),
            })),
        })
    }

    fn take_state(&self) -> State {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Lost with a fetch that was dropped: what it had read is pending, and is read again.
        state.unwrap_or_else(|| State {
            streams: vec![
                Position {
                    last: EntryId::ZERO,
                    own: Some(EntryId::ZERO),
                    abandoned: None
                };
                self.listener.streams.len()
            ],
            ready: VecDeque::new(),
            skipped: Vec::new(),
            next_reclaim: Instant::now(),
        })
    }

    fn client(&self) -> &Arc<Client> {
        self.reader.client()
    }

    fn explain(&self, error: RedisError) -> lightbus_core::Error {
        from_redis(error, self.client().broker(), Sent::Harmless)
    }

    async fn fill(&self, state: &mut State, max: usize) -> Result<()> {
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
        let now = Instant::now();
        if state.ready.is_empty() && state.next_reclaim <= now {
            for position in &mut state.streams {
                position.abandoned = Some(EntryId::ZERO);
            }
            state.next_reclaim = now + self.reclaim.interval;
        }
        for index in 0..state.streams.len() {
            if let (true, Some(from)) = (state.ready.is_empty(), state.streams[index].abandoned)
                && let Err(error) = self.read_abandoned(link, state, index, from, max).await?
            {
                return Ok(Err(error));
            }
        }
        if state.ready.is_empty() { self.read_new(link, state, max).await } else { Ok(Ok(())) }
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
            Some(Ok(answer)) => self.entries(answer)?.pop().map(|(_, entries)| entries),
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

    /// Claims a page of entries that other consumers have abandoned.
    async fn read_abandoned(
        &self,
        link: &Link,
        state: &mut State,
        index: usize,
        from: EntryId,
        max: usize,
    ) -> Result<std::result::Result<(), RedisError>> {
        let Listener { group, consumer, .. } = &*self.listener;
        let key = &self.listener.streams[index].key;
        let mut claim = redis::cmd("XAUTOCLAIM");
        claim.arg(key).arg(group).arg(consumer);
        claim.arg(u64::try_from(self.reclaim.after.as_millis()).unwrap_or(u64::MAX));
        claim.arg(from.to_string()).arg("COUNT").arg(max.min(self.reclaim.batch));
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(claim);
        let answer = self.reader.request(link, link.pipeline(&pipeline)).await?.pop();
        let answer = match answer.map(link::answer) {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Ok(Err(error)),
            None => Value::Nil,
        };
        let mut parts = value::items(answer).unwrap_or_default().into_iter();
        let next = parts.next().as_ref().and_then(value::text).and_then(EntryId::parse);
        state.streams[index].abandoned = next.filter(|next| *next != EntryId::ZERO);
        let entries = parts.next().and_then(value::items).unwrap_or_default();
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
        let read = self.entries(answer)?;
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

    /// Returns the streams in an answer to `XREADGROUP`, each with its entries.
    fn entries(&self, answer: Value) -> Result<Vec<(Value, Vec<Value>)>> {
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

    /// Classifies entries: to hand out, to skip, or to dead-letter.
    async fn classify(
        &self,
        state: &mut State,
        index: usize,
        entries: Vec<Value>,
        attempts: &HashMap<EntryId, u32>,
        usual_attempt: u32,
    ) -> Result<()> {
        let stream = &self.listener.streams[index];
        let now = Instant::now();
        let mut unreadable = Vec::new();
        for RawEntry { id, fields } in entries.into_iter().filter_map(RawEntry::new) {
            let token = EventToken { stream: index, id };
            state.streams[index].last = state.streams[index].last.max(id);
            if !stream.in_flight.insert(id, now) {
                continue;
            }
            let select = |api: &str, event: &str| codec::wanted(&self.listener.events, api, event);
            let attempt = attempts.get(&id).copied().unwrap_or(usual_attempt);
            match fields.map(|fields| codec::read(id, fields, attempt, select)) {
                Some(Read::Event(event)) => {
                    state.ready.push_back((Arc::new(*event), token));
                    continue;
                }
                // Without fields: deleted or trimmed while it was pending.
                Some(Read::Other) | None => state.skipped.push(token),
                Some(Read::Malformed(reason, fields)) => unreadable.push((id, reason, fields)),
            }
            stream.in_flight.remove([id]);
        }
        for (id, reason, fields) in unreadable {
            let entry = Value::Array(fields.clone());
            let entry = json::excerpt(format!("{entry:?}").as_bytes());
            tracing::warn!(stream = stream.key, group = self.listener.group, %id, reason, entry, "an event cannot be read and is dead-lettered");
            dead_letters::add(
                self.client(),
                &stream.key,
                &self.listener.group,
                id,
                &Rejection::from(reason),
                Some(fields),
            )
            .await?;
        }
        Ok(())
    }

    /// Adds one `XACK` for each stream.
    fn acknowledge(
        &self,
        pipeline: &mut Pipeline,
        tokens: impl Iterator<Item = EventToken> + Clone,
    ) {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(24);
        for (index, stream) in self.listener.streams.iter().enumerate() {
            let mut ids = tokens.clone().filter(|token| token.stream == index).peekable();
            if ids.peek().is_none() {
                continue;
            }
            pipeline.cmd("XACK").arg(&stream.key).arg(&self.listener.group);
            for token in ids {
                text.clear();
                let _ = write!(text, "{}", token.id);
                pipeline.arg(&text);
            }
        }
    }

    /// Makes entries count as abandoned, so that any process of the group takes them over.
    fn release(&self, pipeline: &mut Pipeline, tokens: impl Iterator<Item = EventToken> + Clone) {
        for (index, stream) in self.listener.streams.iter().enumerate() {
            let mut ids = tokens.clone().filter(|token| token.stream == index).peekable();
            if ids.peek().is_none() {
                continue;
            }
            pipeline.cmd("XCLAIM").arg(&stream.key).arg(&self.listener.group);
            pipeline.arg(&self.listener.consumer).arg(0);
            for token in ids {
                pipeline.arg(token.id.to_string());
            }
            let idle = u64::try_from(self.reclaim.after.as_millis()).unwrap_or(u64::MAX);
            pipeline.arg("IDLE").arg(idle.saturating_add(1)).arg("JUSTID");
        }
    }

    async fn settle_all(&self, pipeline: &Pipeline) -> Result<()> {
        if pipeline.is_empty() {
            return Ok(());
        }
        for answer in self.client().pipeline(pipeline, Sent::Harmless).await? {
            match link::answer(answer) {
                // The group has vanished: nothing is pending.
                Err(error) if is_missing_group(&error) => {}
                Err(error) => return Err(self.explain(error)),
                Ok(_) => {}
            }
        }
        Ok(())
    }

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

#[async_trait]
impl Source for EventSource {
    type Message = EventMessage;
    type Token = EventToken;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<EventMessage>, EventToken)>> {
        self.reader.check_open(WHAT)?;
        let mut state = self.take_state();
        let filled = if state.ready.is_empty() { self.fill(&mut state, max).await } else { Ok(()) };
        let count = state.ready.len().min(max);
        let events: Vec<_> = state.ready.drain(..count).collect();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        match filled {
            Err(error) if events.is_empty() => Err(error),
            _ => Ok(events),
        }
    }

    async fn settle(&self, settled: &[(EventToken, Outcome)]) -> Result<()> {
        let with = |wanted: Outcome| {
            settled.iter().filter(move |(_, outcome)| *outcome == wanted).map(|(token, _)| *token)
        };
        let mut pipeline = Pipeline::with_capacity(self.listener.streams.len());
        self.acknowledge(&mut pipeline, with(Outcome::Done));
        self.release(&mut pipeline, with(Outcome::Retry));
        self.settle_all(&pipeline).await?;
        for (token, outcome) in settled {
            if let Outcome::Reject(reason) = outcome {
                let stream = &self.listener.streams[token.stream].key;
                dead_letters::add(
                    self.client(),
                    stream,
                    &self.listener.group,
                    token.id,
                    reason,
                    None,
                )
                .await?;
            }
        }
        for (index, stream) in self.listener.streams.iter().enumerate() {
            let ids = settled.iter().filter(|(token, _)| token.stream == index);
            stream.in_flight.remove(ids.map(|(token, _)| token.id));
        }
        Ok(())
    }

    fn is_suspect(&self, message: &EventMessage, _: &EventToken) -> bool {
        message.attempt > 2
    }

    fn size(&self, message: &EventMessage) -> usize {
        message.fields.size()
    }

    async fn interrupt(&self) -> bool {
        self.reader.interrupt().await
    }

    async fn close(&self) -> Result<()> {
        let state = self.take_state();
        let mut pipeline = Pipeline::new();
        self.acknowledge(&mut pipeline, state.skipped.iter().copied());
        self.release(&mut pipeline, state.ready.iter().map(|(_, token)| *token));
        let settled = self.settle_all(&pipeline).await;
        for (_, token) in &state.ready {
            self.listener.streams[token.stream].in_flight.remove([token.id]);
        }
        settled
    }
}

/// Returns the id of an entry, which may have no fields.
fn id_of(entry: &Value) -> Option<EntryId> {
    match entry {
        Value::Array(entry) => EntryId::parse(value::text(entry.first()?)?),
        _ => None,
    }
}

/// Returns how often entries were delivered, from an answer to `XPENDING`.
fn attempts(answer: Option<Value>) -> HashMap<EntryId, u32> {
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
