//! Takes events from the queue of a listener's group.
//!
//! A channel consumes, with as many unacknowledged deliveries as the driver's window allows: RabbitMQ
//! pushes, so the window is the prefetch count, and [`super::prefetch`] replaces the consumer when the
//! window has changed. The driver calls `fetch` one at a time, which holds the lock of [`Active`] and reads
//! the channel's inbox; `settle` may run at the same time. Each token has the session of its delivery, and is settled on that
//! one: after a lost connection there is another session, whose delivery tags mean other messages. A
//! session whose channel is closed ignores acknowledgements, because the broker has requeued what it had.
//! If a fetch is dropped, what it had read stays unacknowledged, and is redelivered when the channel
//! closes.
//!
//! A rejected event is published to the dead letters, and acknowledged only when that is confirmed. If the
//! process dies in between, it is redelivered as well; it is never lost. [`Session::is_settled`] keeps a
//! settlement that is tried again from publishing it twice.
//!
//! The race is between giving back and consuming: a message that is requeued while the consumer runs is
//! delivered here again, behind newer ones. So [`Active::retire`] cancels the consumer first, and
//! requeues what is in the inbox together with what was given back, in the order of the deliveries. Held
//! by `close_gives_back_what_nobody_has_seen` (conformance); lost connections by
//! `connections_that_the_broker_closes_are_made_anew` (tests/transport/faults.rs).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use async_trait::async_trait;
use lapin::message::Delivery;
use lightbus_core::{
    Closing, Error, ErrorKind, EventMessage, Name, Outcome, Result, Source, Upkeep, json,
    time::deadline_after,
    transport::{EventSelector, ListenSpec},
};

use super::{
    WHAT,
    codec::{Raw, Read, wanted},
    dead_letters, group,
    prefetch::{Active, Gate, Held, Prefetch, Stop},
    watch::{Report, Reports, Watched},
};
use crate::{
    EventConfig, QueueType, client::Client, error::Sent, link::Link, publisher::Publisher,
    session::Session, set_up::set_up, topology::queue_of,
};

/// What settling an event needs.
pub(super) struct EventToken {
    session: Arc<Session>,
    tag: u64,
    raw: Raw,
    attempt: u32,
    held: Held,
}

/// A message that cannot be read, to be dead-lettered.
struct Rejected {
    session: Arc<Session>,
    tag: u64,
    raw: Raw,
    held: Held,
    reason: String,
}

/// Why there are no events.
enum Interruption {
    /// The consumer has ended.
    Ended(Error),
    /// What the watch has to report. The consumer goes on.
    Reported(Report),
}

/// Takes the events of a group.
pub(super) struct EventSource {
    client: Arc<Client>,
    closing: Arc<Closing>,
    publisher: Arc<Publisher>,
    dead_letter_publisher: Arc<Publisher>,
    config: Arc<EventConfig>,
    spec: ListenSpec,
    group: Name,
    prefetch: Arc<Prefetch>,
    gate: Arc<Gate>,
    in_flight: Arc<AtomicU64>,
    active: tokio::sync::Mutex<Option<Active>>,
    reports: Arc<Reports>,
    /// From the start to the end of the source.
    watch: Mutex<Option<Upkeep>>,
    /// Messages that cannot be read, and are not dead-lettered yet.
    rejected: Mutex<VecDeque<Rejected>>,
}

impl EventSource {
    pub(super) fn new(
        client: &Arc<Client>,
        closing: &Arc<Closing>,
        publisher: &Arc<Publisher>,
        dead_letter_publisher: &Arc<Publisher>,
        config: &Arc<EventConfig>,
        in_flight: Arc<AtomicU64>,
        spec: &ListenSpec,
    ) -> Self {
        Self {
            client: Arc::clone(client),
            closing: Arc::clone(closing),
            publisher: Arc::clone(publisher),
            dead_letter_publisher: Arc::clone(dead_letter_publisher),
            config: Arc::clone(config),
            group: spec.group.name(),
            prefetch: Arc::new(Prefetch::new(&spec.flow)),
            gate: Arc::default(),
            spec: spec.clone(),
            in_flight,
            active: tokio::sync::Mutex::new(None),
            reports: Arc::default(),
            watch: Mutex::default(),
            rejected: Mutex::default(),
        }
    }

    pub(super) fn prefetch(&self) -> &Arc<Prefetch> {
        &self.prefetch
    }

    /// Starts consuming.
    pub(super) async fn start(&self) -> Result<()> {
        let deadline = deadline_after(self.client.response_timeout());
        let began = set_up(deadline, || self.client.consumes(), |link| self.begin(link)).await?;
        *self.active.lock().await = Some(began);
        let watched = Watched {
            client: Arc::clone(&self.client),
            config: Arc::clone(&self.config),
            spec: self.spec.clone(),
            prefetch: Arc::clone(&self.prefetch),
            reports: Arc::clone(&self.reports),
        };
        *self.watch() = Some(watched.start());
        Ok(())
    }

    fn watch(&self) -> MutexGuard<'_, Option<Upkeep>> {
        // Nothing panics while it is locked.
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn begin(&self, link: Arc<Link>) -> Result<Active> {
        let channel = link.channel().await?;
        let session = Arc::new(Session::new(link, channel));
        let queue = queue_of(&self.config, &self.group);
        let (prefetch, gate) = (Arc::clone(&self.prefetch), Arc::clone(&self.gate));
        let in_flight = Arc::clone(&self.in_flight);
        let reports = Arc::clone(&self.reports);
        let mut active = Active::new(session, queue, prefetch, gate, in_flight, reports);
        active.start().await?;
        Ok(active)
    }

    /// Starts again after the connection was lost, and declares what may be gone.
    async fn begin_again(&self) -> Result<Active> {
        group::ensure(&self.client, &self.publisher, &self.config, &self.spec).await?;
        self.begin(self.client.consumes().await?).await
    }

    fn events(&self) -> &[EventSelector] {
        &self.spec.events
    }

    /// Decodes a delivery. The tag of a skipped one goes to `done`.
    fn read(
        &self,
        active: &Active,
        (delivery, held): (Delivery, Held),
        done: &mut Vec<u64>,
    ) -> Option<(Arc<EventMessage>, EventToken)> {
        let session = &active.session;
        let tag = delivery.delivery_tag;
        let raw = Raw::new(delivery);
        let attempt = raw.attempt(self.config.queue_type == QueueType::Quorum);
        match raw.read(attempt, |api, event| wanted(self.events(), api, event)) {
            Read::Event(event) => {
                let session = Arc::clone(session);
                let token = EventToken { session, tag, raw, attempt, held };
                Some((Arc::from(event), token))
            }
            // Bound by an earlier version of the listener, which selected more.
            Read::Other => {
                done.push(tag);
                None
            }
            Read::Malformed(reason) => {
                tracing::warn!(
                    listener = &*self.group,
                    reason,
                    message = json::excerpt(&raw.body),
                    "an event cannot be read, and is dead-lettered"
                );
                self.rejected().push_back(Rejected {
                    session: Arc::clone(session),
                    tag,
                    raw,
                    held,
                    reason,
                });
                None
            }
        }
    }

    /// Waits for events, and takes at most `max`.
    async fn take(
        &self,
        active: &mut Active,
        max: usize,
    ) -> std::result::Result<Vec<(Arc<EventMessage>, EventToken)>, Interruption> {
        let mut events = Vec::with_capacity(max.min(256));
        let mut done = Vec::new();
        let mut next = active.next().await.map_err(Interruption::Ended)?;
        let ended = loop {
            match next {
                Ok(delivery) => events.extend(self.read(active, delivery, &mut done)),
                Err(Stop::Ended(error)) => break Some(active.session.ended(error)),
                // Before anything was taken.
                Err(Stop::Reported(report)) => return Err(Interruption::Reported(report)),
            }
            if events.len() + done.len() >= max {
                break None;
            }
            next = match active.try_next() {
                Some(next) => next,
                None => break None,
            };
        };
        match ended {
            // Events before the end are redelivered: the broker has requeued them.
            Some(error) => Err(Interruption::Ended(error)),
            None => {
                if !done.is_empty() {
                    active.session.acknowledge(done.into_iter()).await;
                }
                Ok(events)
            }
        }
    }

    /// Dead-letters what cannot be read.
    async fn publish_rejected(&self) -> Result<()> {
        loop {
            let Some(rejected) = self.rejected().pop_front() else { return Ok(()) };
            if !rejected.session.is_alive() {
                // It is redelivered.
                continue;
            }
            let attempt = rejected.raw.attempt(true);
            let Rejected { session, tag, raw, held, reason } = &rejected;
            if let Err(error) = self.dead_letter(session, *tag, raw, held, (reason, attempt)).await
            {
                self.rejected().push_front(rejected);
                return Err(error);
            }
        }
    }

    /// Dead-letters a delivery, and settles it.
    async fn dead_letter(
        &self,
        session: &Arc<Session>,
        tag: u64,
        raw: &Raw,
        held: &Held,
        (reason, attempts): (&str, u32),
    ) -> Result<()> {
        let publisher = &self.dead_letter_publisher;
        let published =
            dead_letters::publish(publisher, &self.config, &self.group, reason, attempts, raw);
        let published = published.await;
        // Settled at once: if settling is tried again, it must not be published twice.
        match published {
            Ok(()) => {
                let _no_cancel = self.gate.lock().await;
                held.release();
                session.acknowledge(std::iter::once(tag)).await;
                Ok(())
            }
            // It would be refused every time. The broker can dead-letter it, but has its own reason.
            Err(error) if error.kind() == ErrorKind::TooLarge => {
                tracing::warn!(
                    %error, listener = &*self.group, reason,
                    "a dead letter is too large with its reason: RabbitMQ dead-letters it without"
                );
                let _no_cancel = self.gate.lock().await;
                held.release();
                session.reject(tag).await;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn rejected(&self) -> MutexGuard<'_, VecDeque<Rejected>> {
        // Nothing panics while it is locked.
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cancels the consumer. Returns the tags of the deliveries that were not handed out.
    async fn retire(&self) -> Vec<(Arc<Session>, u64)> {
        let mut active = self.active.lock().await;
        let Some(active) = active.as_mut() else { return Vec::new() };
        let session = Arc::clone(&active.session);
        let tags = active.retire().await;
        tags.into_iter().map(|tag| (Arc::clone(&session), tag)).collect()
    }
}

/// Delivery tags, grouped by session.
#[derive(Default)]
struct BySession(Vec<(Arc<Session>, Vec<u64>)>);

impl BySession {
    fn push(&mut self, session: &Arc<Session>, tag: u64) {
        match self.0.iter_mut().find(|(known, _)| Arc::ptr_eq(known, session)) {
            Some((_, tags)) => tags.push(tag),
            None => self.0.push((Arc::clone(session), vec![tag])),
        }
    }
}

#[async_trait]
impl Source for EventSource {
    type Message = EventMessage;
    type Token = EventToken;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<EventMessage>, EventToken)>> {
        if self.closing.is_closed() {
            return Err(Error::closed(WHAT));
        }
        let work = async {
            let mut active = self.active.lock().await;
            if active.is_none() {
                *active = Some(self.begin_again().await?);
            }
            let Some(current) = active.as_mut() else { return Ok(Vec::new()) };
            let taken = match self.take(current, max).await {
                Ok(taken) => taken,
                Err(Interruption::Reported(report)) => {
                    report?;
                    Vec::new()
                }
                Err(Interruption::Ended(error)) => {
                    current.session.deliveries().revoke();
                    *active = None;
                    return Err(error);
                }
            };
            if !self.rejected().is_empty()
                && let Err(error) = self.publish_rejected().await
            {
                // Tried again with the next fetch: the events that were taken must not be lost for it.
                tracing::warn!(%error, "messages that cannot be read could not be dead-lettered yet");
            }
            Ok(taken)
        };
        tokio::select! {
            biased;
            () = self.closing.closed() => Err(Error::closed(WHAT)),
            taken = work => taken,
        }
    }

    async fn settle(&self, settled: &[(EventToken, Outcome)]) -> Result<()> {
        // Before anything is acknowledged, for which the broker would push more. A fetch under way does
        // it by itself.
        if let Ok(mut active) = self.active.try_lock()
            && let Some(active) = active.as_mut()
        {
            active.shrink().await;
        }
        let mut done = BySession::default();
        let mut back = BySession::default();
        let mut released = Vec::with_capacity(settled.len());
        let mut failed = None;
        for (token, outcome) in settled {
            match outcome {
                Outcome::Done => {
                    done.push(&token.session, token.tag);
                    released.push(&token.held);
                }
                Outcome::Retry => back.push(&token.session, token.tag),
                // The broker has requeued it: it is redelivered, and rejected then.
                Outcome::Reject(_) if !token.session.is_alive() => {}
                Outcome::Reject(reason) if !token.session.is_settled(token.tag) => {
                    let EventToken { session, tag, raw, held, .. } = token;
                    let reason = (&**reason, reason.attempts(token.attempt));
                    if let Err(error) = self.dead_letter(session, *tag, raw, held, reason).await {
                        failed = Some(error);
                    }
                }
                Outcome::Reject(_) => {}
            }
        }
        if !done.0.is_empty() {
            let _no_cancel = self.gate.lock().await;
            released.into_iter().for_each(Held::release);
            for (session, tags) in done.0 {
                session.acknowledge(tags.into_iter()).await;
            }
        }
        if !back.0.is_empty() {
            for (session, tag) in self.retire().await {
                back.push(&session, tag);
            }
            for (session, tags) in back.0 {
                session.requeue(tags).await;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn is_suspect(&self, message: &EventMessage, _: &EventToken) -> bool {
        message.attempt > 2
    }

    fn session(&self, token: &EventToken) -> Option<lightbus_core::Session> {
        Some(token.session.deliveries().clone())
    }

    fn resize(&self, window: usize) {
        self.prefetch.resize(window);
    }

    fn size(&self, message: &EventMessage) -> usize {
        message.fields.size()
    }

    async fn close(&self) -> Result<()> {
        drop(self.watch().take());
        let mut back = BySession::default();
        for (session, tag) in self.retire().await {
            back.push(&session, tag);
        }
        for (session, tags) in back.0 {
            session.requeue(tags).await;
        }
        let Some(active) = self.active.lock().await.take() else { return Ok(()) };
        if active.session.is_alive() {
            let close = active.session.channel.close(200, "the listener has closed".into());
            active.session.link.request(close, Sent::Harmless).await?;
        }
        Ok(())
    }
}
