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
//! process has handed out, and those are skipped; the [`LeaseRenewer`]'s task keeps other processes from
//! taking them over. An entry leaves `InFlight` only after Redis has acknowledged it. Held by
//! `a_slow_handler_keeps_its_event_and_a_dead_one_loses_it` and
//! `listeners_survive_a_restart_and_killed_connections` (tests/transport/events.rs).
//!
//! A group can vanish under a listener (`FLUSHALL`, or a crash of a Redis that does not persist). It is
//! restored at the newest entry seen: `a_group_that_vanishes_is_made_again_and_misses_nothing`.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use lightbus_core::{Closing, EventMessage, Outcome, Result, Source, transport::EventSelector};
use redis::{Pipeline, RedisError};
use tokio::time::Instant;

use super::{
    WHAT, dead_letters, entry::EntryId, in_flight::InFlight, lease::LeaseRenewer,
    presence::Presence, read::Position, reclaim::Reclaim,
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
    state: Mutex<Option<State>>,
    _lease: LeaseRenewer,
    _presence: Option<Arc<Presence>>,
}

/// What is known between one fetch and the next.
pub(super) struct State {
    pub(super) streams: Vec<Position>,
    /// Read and not handed out yet.
    pub(super) ready: VecDeque<(Arc<EventMessage>, EventToken)>,
    /// Skipped, and to be acknowledged with the next read.
    pub(super) skipped: Vec<EventToken>,
    pub(super) next_reclaim: Instant,
}

/// What settling an event needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventToken {
    pub(super) stream: usize,
    pub(super) id: EntryId,
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
            _presence: None,
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

    /// Keeps the task that compares the listener with others for as long as this lives.
    pub(super) fn with_presence(mut self, presence: &Arc<Presence>) -> Self {
        self._presence = Some(Arc::clone(presence));
        self
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
