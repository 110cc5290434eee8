//! Takes events from streams, and settles them.
//!
//! The driver calls `fetch` one at a time, on a connection that only this source uses ([`Reader`]).
//! `settle` may run at the same time, on the connection for sends. A fetch reads, in this order:
//!
//! 1. this consumer's own pending entries, after each new connection: entries that were on their way
//!    when the last connection broke are pending;
//! 2. entries that other consumers have abandoned ([`reclaim`](super::reclaim)): each
//!    `reclaim_interval`, or each second when idle;
//! 3. new entries, for which it blocks at the server for at most a second.
//!
//! What is known between two fetches ([`State`]) is taken out of its mutex by the fetch in progress. A
//! fetch that is dropped loses it, and no event: what it had read is pending, and read again as in 1.
//!
//! So an entry may be read while its handler still runs: as one's own (1), or as abandoned, if the
//! handler takes longer than `acknowledgement_timeout` (2). [`InFlight`] has all entries that this
//! process has handed out, and those are skipped; the task of [`keep_leases`] keeps other processes from
//! taking them over. An entry leaves `InFlight` only after Redis has acknowledged it. Held by
//! `a_slow_handler_keeps_its_event_and_a_dead_one_loses_it` and
//! `listeners_survive_a_restart_and_killed_connections` (tests/transport/events.rs).
//!
//! A group can vanish under a listener (`FLUSHALL`, or a crash of a Redis that does not persist). It is
//! restored at the newest entry seen: `a_group_that_vanishes_is_made_again_and_misses_nothing`.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use lightbus_core::{
    Closing, EventMessage, Outcome, Result, Source, Upkeep, transport::EventSelector,
};
use redis::{Pipeline, RedisError};
use tokio::time::Instant;

use super::{
    WHAT,
    dead_letters::Content,
    deferred::{Deferred, Rejected},
    entry::EntryId,
    group,
    in_flight::InFlight,
    lease::keep_leases,
    loss::LossReport,
    read::Position,
    reclaim::Reclaim,
};
use crate::{
    client::Client,
    error::{Sent, from_redis, is_missing_group},
    link,
    reader::Reader,
};

/// What a listener reads, and as which consumer.
pub(super) struct Listener {
    pub(super) group: String,
    pub(super) consumer: String,
    pub(super) events: Vec<EventSelector>,
    pub(super) streams: Vec<Stream>,
    /// Whether the consumer is removed at close, if it holds nothing.
    pub(super) leaves: bool,
}

/// One of its streams.
pub(super) struct Stream {
    pub(super) key: String,
    pub(super) in_flight: InFlight,
}

/// Takes the events of a listener.
pub(super) struct EventSource {
    pub(super) reader: Reader,
    pub(super) listener: Arc<Listener>,
    pub(super) reclaim: Reclaim,
    pub(super) losses: LossReport,
    pub(super) deferred: Deferred,
    state: Mutex<Option<State>>,
    _lease: Upkeep,
    _presence: Option<Arc<Upkeep>>,
}

/// What is known between one fetch and the next.
pub(super) struct State {
    pub(super) streams: Vec<Position>,
    /// Read and not handed out yet.
    pub(super) ready: VecDeque<(Arc<EventMessage>, EntryRef)>,
    /// Skipped, and to be acknowledged with the next read.
    pub(super) skipped: Vec<EntryRef>,
    pub(super) next_reclaim: Instant,
}

/// An entry of one of a listener's streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct EntryRef {
    pub(super) stream: usize,
    pub(super) id: EntryId,
}

/// What settling an event needs.
#[derive(Clone, Debug)]
pub(super) struct EventToken {
    pub(super) entry: EntryRef,
    /// For its dead letter, if the entry was trimmed.
    event: Arc<EventMessage>,
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
        let streams = last.iter().map(|last| Position { last: *last, ..Position::default() });
        let mut streams: Vec<Position> = streams.collect();
        let source = Self {
            _lease: keep_leases(Arc::clone(client), Arc::clone(&listener), reclaim.after),
            _presence: None,
            losses: LossReport::default(),
            deferred: Deferred::default(),
            reader,
            listener,
            reclaim,
            state: Mutex::new(None),
        };
        for (index, position) in streams.iter_mut().enumerate() {
            // From now on Redis counts how many events the group has passed.
            position.next_check = source.check_losses(&link, index).await?;
        }
        source.reader.give_back(link);
        let (ready, skipped) = (VecDeque::new(), Vec::new());
        let state = State { streams, ready, skipped, next_reclaim: Instant::now() };
        *source.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        Ok(source)
    }

    /// Keeps the task that compares the listener with others for as long as this lives.
    pub(super) fn with_presence(mut self, presence: &Arc<Upkeep>) -> Self {
        self._presence = Some(Arc::clone(presence));
        self
    }

    fn take_state(&self) -> State {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Lost with a fetch that was dropped: what it had read is pending, and is read again.
        state.unwrap_or_else(|| State {
            streams: vec![Position::default(); self.listener.streams.len()],
            ready: VecDeque::new(),
            skipped: Vec::new(),
            next_reclaim: Instant::now(),
        })
    }

    pub(super) fn client(&self) -> &Arc<Client> {
        self.reader.client()
    }

    pub(super) fn explain(&self, error: RedisError) -> lightbus_core::Error {
        from_redis(error, self.client().broker(), Sent::Harmless)
    }

    /// Adds one `XACK` for each stream.
    pub(super) fn acknowledge(
        &self,
        pipeline: &mut Pipeline,
        entries: impl Iterator<Item = EntryRef> + Clone,
    ) {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(24);
        for (index, stream) in self.listener.streams.iter().enumerate() {
            let mut ids = entries.clone().filter(|entry| entry.stream == index).peekable();
            if ids.peek().is_none() {
                continue;
            }
            pipeline.cmd("XACK").arg(&stream.key).arg(&self.listener.group);
            for entry in ids {
                text.clear();
                let _ = write!(text, "{}", entry.id);
                pipeline.arg(&text);
            }
        }
    }

    /// Makes entries count as abandoned, so that any process of the group takes them over.
    fn release(&self, pipeline: &mut Pipeline, entries: impl Iterator<Item = EntryRef> + Clone) {
        for (index, stream) in self.listener.streams.iter().enumerate() {
            let mut ids = entries.clone().filter(|entry| entry.stream == index).peekable();
            if ids.peek().is_none() {
                continue;
            }
            pipeline.cmd("XCLAIM").arg(&stream.key).arg(&self.listener.group);
            pipeline.arg(&self.listener.consumer).arg(0);
            for entry in ids {
                pipeline.arg(entry.id.to_string());
            }
            let idle = u64::try_from(self.reclaim.after.as_millis()).unwrap_or(u64::MAX);
            pipeline.arg("IDLE").arg(idle.saturating_add(1)).arg("JUSTID");
        }
    }

    /// Acknowledges and releases entries. The answer for each stream counts for itself.
    async fn settle_all(&self, pipeline: &Pipeline) -> Result<()> {
        if pipeline.is_empty() {
            return Ok(());
        }
        let mut refused = Ok(());
        for answer in self.client().pipeline(pipeline, Sent::Harmless).await? {
            match link::answer(answer) {
                // The group has vanished: nothing is pending.
                Err(error) if is_missing_group(&error) => {}
                Err(error) => refused = Err(self.explain(error)),
                Ok(_) => {}
            }
        }
        refused
    }

    /// Removes the consumer from groups in which it holds nothing.
    async fn leave(&self) {
        let Listener { group, consumer, streams, .. } = &*self.listener;
        for stream in streams {
            match group::leave(self.client(), &stream.key, group, consumer).await {
                Ok(true) => tracing::debug!(stream = stream.key, group, consumer, "left the group"),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%error, stream = stream.key, group, consumer, "the consumer could not be removed");
                }
            }
        }
    }
}

#[async_trait]
impl Source for EventSource {
    type Message = EventMessage;
    type Token = EventToken;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<EventMessage>, EventToken)>> {
        self.reader.check_open(WHAT)?;
        self.retry_deferred().await;
        let mut state = self.take_state();
        let filled = if state.ready.is_empty() { self.fill(&mut state, max).await } else { Ok(()) };
        let count = state.ready.len().min(max);
        let events: Vec<_> = state
            .ready
            .drain(..count)
            .map(|(event, entry)| (Arc::clone(&event), EventToken { entry, event }))
            .collect();
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
        match filled {
            Err(error) if events.is_empty() => Err(error),
            _ => Ok(events),
        }
    }

    async fn settle(&self, settled: &[(EventToken, Outcome)]) -> Result<()> {
        let with = |wanted: Outcome| {
            let settled = settled.iter().filter(move |(_, outcome)| *outcome == wanted);
            settled.map(|(token, _)| token.entry)
        };
        let mut pipeline = Pipeline::with_capacity(self.listener.streams.len());
        self.acknowledge(&mut pipeline, with(Outcome::Done));
        self.release(&mut pipeline, with(Outcome::Retry));
        let answered = match self.settle_all(&pipeline).await {
            Err(error) if error.is_temporary() => return Err(error),
            // A refusal for good: what it concerns is redelivered, and the rest is settled.
            answered => answered,
        };
        let mut kept = HashSet::new();
        for (EventToken { entry, event }, outcome) in settled {
            if let Outcome::Reject(rejection) = outcome {
                let (rejection, content) = (rejection.clone(), Content::Event(Arc::clone(event)));
                if !self.reject(Rejected { entry: *entry, rejection, content }).await? {
                    kept.insert((entry.stream, entry.id));
                }
            }
        }
        for (index, stream) in self.listener.streams.iter().enumerate() {
            let ids = settled.iter().map(|(token, _)| token.entry);
            let ids = ids.filter(|entry| entry.stream == index).map(|entry| entry.id);
            stream.in_flight.remove(ids.filter(|id| !kept.contains(&(index, *id))));
        }
        answered
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
        let unseen = state.ready.iter().map(|(_, entry)| *entry);
        let held: Vec<EntryRef> = unseen.chain(self.deferred.drain()).collect();
        self.release(&mut pipeline, held.iter().copied());
        let settled = self.settle_all(&pipeline).await;
        self.losses.finish(&self.listener);
        for entry in &held {
            self.listener.streams[entry.stream].in_flight.remove([entry.id]);
        }
        if settled.is_ok() && self.listener.leaves {
            self.leave().await;
        }
        settled
    }
}
