//! Rejected events whose dead letters the server refuses for now.
//!
//! A Redis that has reached `maxmemory` acknowledges events but stores no dead letter. Such an event stays
//! pending for this process, which tries again with backoff and stores the dead letter when there is
//! memory again; its handler does not run again. What is settled with it is not delayed. Only so many are
//! kept: further ones are redelivered after `acknowledgement_timeout`. At close all are released, so that
//! another process takes them over. Held by `a_rejected_event_waits_until_redis_has_memory`
//! (tests/transport/refusals.rs).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lightbus_core::{Backoff, Error, Rejection, Result, time::after};
use tokio::time::Instant;

use super::{
    dead_letters::{self, Content, Stored},
    entry::EntryId,
    source::{EntryRef, EventSource},
};

/// The most events that wait, and their most bytes.
const MOST: usize = 1000;
const MOST_BYTES: usize = 16 << 20;
/// The waits before the next attempt.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// The most dead letters that are stored between two reads.
const AT_ONCE: usize = 100;
/// The time between two warnings.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// A rejected event.
#[derive(Debug)]
pub(super) struct Rejected {
    pub(super) entry: EntryRef,
    pub(super) rejection: Rejection,
    pub(super) content: Content,
}

/// The rejected events of a listener that wait.
#[derive(Debug)]
pub(super) struct Deferred(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    events: BTreeMap<(usize, EntryId), Arc<Rejected>>,
    bytes: usize,
    backoff: Backoff,
    /// When the next attempt is due.
    next: Instant,
    /// When the next warning may follow.
    next_warning: Instant,
}

impl Default for Deferred {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Waiting {
            events: BTreeMap::new(),
            bytes: 0,
            backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            next: now,
            next_warning: now,
        }))
    }
}

impl Deferred {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an event, unless there are too many, and warns. Returns whether it is kept.
    fn keep(&self, rejected: Rejected, group: &str, error: &Error) -> bool {
        let mut waiting = self.waiting();
        let key = (rejected.entry.stream, rejected.entry.id);
        let size = rejected.content.size();
        let known = waiting.events.contains_key(&key);
        let full = waiting.events.len() >= MOST || waiting.bytes.saturating_add(size) > MOST_BYTES;
        if !known && !full {
            if waiting.events.is_empty() {
                let wait = waiting.backoff.failed();
                waiting.next = after(Instant::now(), wait);
            }
            waiting.bytes = waiting.bytes.saturating_add(size);
            waiting.events.insert(key, Arc::new(rejected));
        }
        waiting.warn(group, error);
        known || !full
    }

    /// Returns the next event whose attempt is due.
    fn due(&self) -> Option<Arc<Rejected>> {
        let waiting = self.waiting();
        if waiting.next > Instant::now() {
            return None;
        }
        waiting.events.values().next().map(Arc::clone)
    }

    /// Notes that an event waits no more.
    fn stored(&self, rejected: &Rejected) {
        let mut waiting = self.waiting();
        if waiting.events.remove(&(rejected.entry.stream, rejected.entry.id)).is_some() {
            waiting.bytes = waiting.bytes.saturating_sub(rejected.content.size());
        }
        waiting.backoff.succeeded();
        if waiting.events.is_empty() {
            tracing::info!("dead letters are stored again");
        }
    }

    fn refused(&self, group: &str, error: &Error) {
        let mut waiting = self.waiting();
        let wait = waiting.backoff.failed();
        waiting.next = after(Instant::now(), wait);
        waiting.warn(group, error);
    }

    /// Returns all that wait, and forgets them.
    pub(super) fn drain(&self) -> Vec<EntryRef> {
        let mut waiting = self.waiting();
        waiting.bytes = 0;
        std::mem::take(&mut waiting.events).into_values().map(|event| event.entry).collect()
    }
}

impl Waiting {
    fn warn(&mut self, group: &str, error: &Error) {
        let now = Instant::now();
        if self.next_warning > now {
            return;
        }
        self.next_warning = after(now, BETWEEN_WARNINGS);
        tracing::warn!(
            group,
            %error,
            waiting = self.events.len(),
            "Redis refuses dead letters: rejected events stay pending until it stores them"
        );
    }
}

impl EventSource {
    /// Dead-letters an event, or keeps it until the server stores it. Returns whether it is settled: one
    /// that is kept stays in flight.
    pub(super) async fn reject(&self, rejected: Rejected) -> Result<bool> {
        match self.store(&rejected).await? {
            Stored::Yes => Ok(true),
            Stored::Refused(error) => {
                Ok(!self.deferred.keep(rejected, &self.listener.group, &error))
            }
        }
    }

    /// Tries again to store the dead letters of events that were kept, when it is time.
    pub(super) async fn retry_deferred(&self) {
        for _ in 0..AT_ONCE {
            let Some(rejected) = self.deferred.due() else { return };
            match self.store(&rejected).await {
                Ok(Stored::Yes) => {
                    self.deferred.stored(&rejected);
                    let EntryRef { stream, id } = rejected.entry;
                    self.listener.streams[stream].in_flight.remove([id]);
                }
                Ok(Stored::Refused(error)) | Err(error) => {
                    self.deferred.refused(&self.listener.group, &error);
                    return;
                }
            }
        }
    }

    async fn store(&self, Rejected { entry, rejection, content }: &Rejected) -> Result<Stored> {
        let stream = &self.listener.streams[entry.stream].key;
        let place = (&**stream, &*self.listener.group, entry.id);
        dead_letters::add(self.client(), place, rejection, content).await
    }
}
