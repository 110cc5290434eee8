//! A consumer group: its position in each stream, and the events that are pending or were returned.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use lightbus_core::{
    EventMessage, Name, Outcome, Rejection,
    transport::{EventSelector, GroupSpec, Lag, ListenSpec},
};
use tokio::sync::Notify;

use super::{
    Events,
    dead_letters::Dead,
    log::{Event, Stream},
};
use crate::client::lock;

/// How many events are looked at under one lock. A listener that wants few of many must not hold up
/// those who send.
const LOOK_AT: usize = 1024;

/// A consumer group. It outlives its consumers.
pub(super) struct Group {
    pub(super) spec: GroupSpec,
    name: Name,
    pub(super) state: Mutex<GroupState>,
    /// Wakes all consumers: they may want different events, and one that does not want the new one
    /// must not be the only one to wake.
    pub(super) bell: Arc<Notify>,
    pub(super) dead: Mutex<Dead>,
}

#[derive(Default)]
pub(super) struct GroupState {
    cursors: Vec<Cursor>,
    /// Returned by a consumer, by number: the oldest is the next to be taken.
    pub(super) returned: BTreeMap<u64, Taken>,
    /// Taken and not settled, by number.
    pending: BTreeMap<u64, (ConsumerId, Taken)>,
    last_consumer: ConsumerId,
}

pub(super) type ConsumerId = u64;

/// How far a group is in a stream.
struct Cursor {
    api: Name,
    stream: Arc<Stream>,
    /// The position of the next event to look at.
    next: u64,
}

#[derive(Clone)]
pub(super) struct Taken {
    pub(super) event: Arc<Event>,
    /// How often it was taken.
    pub(super) attempt: u32,
    /// Whether it was begun. The first two deliveries count in any case.
    pub(super) begun: bool,
}

/// What a consumer took from its group.
pub(super) struct Took {
    pub(super) taken: Vec<Taken>,
    /// Whether the streams have events that the group has not looked at.
    pub(super) more: bool,
}

impl Cursor {
    /// Visits the next events while `look` returns `true`. Returns whether there are events left.
    fn look(&mut self, group: &str, mut look: impl FnMut(u64, &Arc<Event>) -> bool) -> bool {
        let log = lock(&self.stream.0);
        if self.next < log.first {
            let lost = log.first - self.next;
            tracing::warn!(group, api = %self.api, lost, "a listener fell too far behind; its oldest events are lost");
            self.next = log.first;
        }
        for event in log.from(self.next).take(LOOK_AT) {
            self.next += 1;
            if !look(self.next - 1, event) {
                break;
            }
        }
        self.next < log.end()
    }
}

impl Taken {
    /// As it waits for its next delivery.
    fn returned(mut self) -> Self {
        if !self.begun {
            self.attempt = self.attempt.saturating_sub(1);
        }
        self
    }

    pub(super) fn message(&self) -> Arc<EventMessage> {
        if self.attempt == self.event.message.attempt {
            // Shared by all listeners.
            return Arc::clone(&self.event.message);
        }
        Arc::new(EventMessage { attempt: self.attempt, ..(*self.event.message).clone() })
    }
}

impl Group {
    pub(super) fn new(spec: &GroupSpec) -> Self {
        Self {
            spec: spec.clone(),
            name: spec.name(),
            state: Mutex::default(),
            bell: Arc::default(),
            dead: Mutex::default(),
        }
    }

    /// Records that a suspect is begun. Returns `false` if the consumer does not have it.
    pub(super) fn begin(&self, consumer: ConsumerId, number: u64) -> bool {
        let mut state = lock(&self.state);
        match state.pending.get_mut(&number) {
            Some((owner, taken)) if *owner == consumer => {
                taken.begun = true;
                true
            }
            _ => false,
        }
    }

    /// Adds the streams that the group does not read yet, and a consumer.
    pub(super) fn join(&self, events: &Events, spec: &ListenSpec) -> ConsumerId {
        let mut state = lock(&self.state);
        for selector in &spec.events {
            if state.cursors.iter().any(|cursor| cursor.api == selector.api) {
                continue;
            }
            let stream = events.stream(&selector.api);
            let mut log = lock(&stream.0);
            log.bells.push(Arc::clone(&self.bell));
            let next = log.position(spec.start);
            drop(log);
            state.cursors.push(Cursor { api: Name::clone(&selector.api), stream, next });
        }
        state.last_consumer += 1;
        state.last_consumer
    }

    /// Takes returned events first, then new ones, each oldest first.
    pub(super) fn take(&self, consumer: ConsumerId, spec: &ListenSpec, max: usize) -> Took {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let wants = |event: &Event| spec.wants(&event.message.api, &event.message.event);
        let mut taken = Vec::new();
        if !state.returned.is_empty() {
            let again = state.returned.iter().filter(|(_, taken)| wants(&taken.event));
            let again: Vec<_> = again.map(|(number, _)| *number).take(max).collect();
            let again = again.iter().filter_map(|number| state.returned.remove(number));
            taken.extend(again.map(|Taken { event, attempt, .. }| Taken {
                event,
                attempt: attempt.saturating_add(1),
                begun: attempt <= 1,
            }));
        }
        let room = max - taken.len();
        let mut found: Vec<(usize, u64, Arc<Event>)> = Vec::new();
        let mut more = false;
        for (index, cursor) in state.cursors.iter_mut().enumerate() {
            if room > 0 && spec.events.iter().any(|selector| selector.api == cursor.api) {
                let enough = found.len() + room;
                more |= cursor.look(&self.name, |position, event| {
                    if wants(event) {
                        found.push((index, position, Arc::clone(event)));
                    }
                    found.len() < enough
                });
            }
        }
        // Over all streams, the oldest come first; those for which there is no room stay.
        found.sort_unstable_by_key(|(_, _, event)| event.number);
        for (index, position, _) in found.drain(room.min(found.len())..) {
            let cursor = &mut state.cursors[index];
            cursor.next = cursor.next.min(position);
            more = true;
        }
        taken.extend(found.into_iter().map(|(_, _, event)| Taken {
            event,
            attempt: 1,
            begun: true,
        }));
        let pending = taken.iter().map(|taken| (taken.event.number, (consumer, taken.clone())));
        state.pending.extend(pending);
        Took { taken, more: more || room == 0 }
    }

    /// Settles events. Those that no longer belong to this consumer were returned before, and are
    /// ignored.
    pub(super) fn settle(
        &self,
        consumer: ConsumerId,
        settled: &[(u64, Outcome)],
        max_dead_letters: usize,
        now: SystemTime,
    ) {
        let mut rejected: Vec<(Taken, Rejection)> = Vec::new();
        let mut returned = false;
        let mut state = lock(&self.state);
        let state = &mut *state;
        for (number, outcome) in settled {
            let Entry::Occupied(entry) = state.pending.entry(*number) else { continue };
            if entry.get().0 != consumer {
                continue;
            }
            let (_, taken) = entry.remove();
            match outcome {
                Outcome::Done => {}
                Outcome::Retry => {
                    state.returned.insert(*number, taken.returned());
                    returned = true;
                }
                Outcome::Reject(reason) => rejected.push((taken, reason.clone())),
            }
        }
        if !rejected.is_empty() {
            // Still under the group's lock, so that an event is always either pending or a dead letter.
            self.add_letters(rejected, max_dead_letters, now);
        }
        if returned {
            self.bell.notify_waiters();
        }
    }

    /// Ends a consumer: its unsettled events return to the group at once.
    pub(super) fn leave(&self, consumer: ConsumerId) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let left = state.pending.iter().filter(|(_, (owner, _))| *owner == consumer);
        let left: Vec<_> = left.map(|(number, _)| *number).collect();
        for number in left {
            if let Some((_, taken)) = state.pending.remove(&number) {
                state.returned.insert(number, taken.returned());
            }
        }
        if !state.returned.is_empty() {
            self.bell.notify_waiters();
        }
    }

    pub(super) fn lag(&self, events: &[EventSelector]) -> Lag {
        let state = lock(&self.state);
        let asked = |api: &str| events.iter().any(|selector| *selector.api == *api);
        let waiting = state.cursors.iter().filter(|cursor| asked(&cursor.api)).map(|cursor| {
            let log = lock(&cursor.stream.0);
            log.end() - cursor.next.max(log.first)
        });
        let taken = state.pending.values().map(|(_, taken)| taken).chain(state.returned.values());
        let pending = taken.filter(|taken| asked(&taken.event.message.api)).count();
        Lag { waiting: waiting.sum(), pending: pending as u64 }
    }
}
