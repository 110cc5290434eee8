//! The events that a group rejected.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, EventMessage, Name, Rejection, Result,
    transport::{DeadLetter, DeadLetters, GroupSpec},
};

use super::{
    MemoryEventTransport,
    group::{Group, Taken},
    log::Event,
};
use crate::client::lock;

/// The dead letters of a group, oldest first.
#[derive(Default)]
pub(super) struct Dead {
    /// The number of the newest.
    last: u64,
    letters: VecDeque<Rejected>,
}

struct Rejected {
    number: u64,
    letter: DeadLetter,
    /// To be requeued.
    event: Arc<Event>,
}

impl Group {
    /// Adds dead letters; the oldest go if there are more than `limit`.
    pub(super) fn add_letters(
        &self,
        rejected: Vec<(Taken, Rejection)>,
        limit: usize,
        time: SystemTime,
    ) {
        let mut dead = lock(&self.dead);
        for (taken, rejection) in rejected {
            dead.last += 1;
            let number = dead.last;
            let letter = self.letter(number, &taken, &rejection, time);
            dead.letters.push_back(Rejected { number, letter, event: taken.event });
        }
        let excess = dead.letters.len().saturating_sub(limit);
        dead.letters.drain(..excess);
    }

    fn letter(
        &self,
        number: u64,
        taken: &Taken,
        rejection: &Rejection,
        time: SystemTime,
    ) -> DeadLetter {
        DeadLetter {
            id: number.to_string().into(),
            event: EventMessage::clone(&taken.message()),
            group: self.spec.clone(),
            reason: rejection.reason().to_owned(),
            attempts: rejection.attempts(taken.attempt),
            time,
        }
    }

    fn letters_after(&self, number: u64, limit: usize) -> Vec<DeadLetter> {
        let dead = lock(&self.dead);
        let from = dead.letters.partition_point(|rejected| rejected.number <= number);
        dead.letters.range(from..).take(limit).map(|rejected| rejected.letter.clone()).collect()
    }

    /// Removes dead letters and returns them.
    fn remove_letters(&self, ids: &[Name]) -> VecDeque<Rejected> {
        let ids: HashSet<_> = ids.iter().collect();
        let mut dead = lock(&self.dead);
        let all = std::mem::take(&mut dead.letters).into_iter();
        let (removed, kept): (VecDeque<_>, _) =
            all.partition(|rejected| ids.contains(&rejected.letter.id));
        dead.letters = kept;
        removed
    }

    /// Returns dead letters to the group, each at its original position and as if it were new.
    fn requeue(&self, ids: &[Name]) -> usize {
        // Under the group's lock, so that an event is always either a dead letter or returned.
        let mut state = lock(&self.state);
        let removed = self.remove_letters(ids);
        for Rejected { event, .. } in &removed {
            let taken = Taken { event: Arc::clone(event), attempt: 0, begun: true };
            state.returned.insert(event.number, taken);
        }
        if !removed.is_empty() {
            self.bell.notify_waiters();
        }
        removed.len()
    }
}

#[async_trait]
impl DeadLetters for MemoryEventTransport {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let events = &self.handle.client()?.events;
        let after = match after.map(str::parse) {
            None => 0,
            Some(Ok(number)) => number,
            Some(Err(_)) => {
                return Err(Error::new(ErrorKind::Invalid, "this is not the id of a dead letter")
                    .with("id", after.unwrap_or_default()));
            }
        };
        let group = events.known_group(group);
        Ok(group.map(|group| group.letters_after(after, limit)).unwrap_or_default())
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let group = self.handle.client()?.events.known_group(group);
        Ok(group.map_or(0, |group| group.remove_letters(ids).len()))
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let group = self.handle.client()?.events.known_group(group);
        Ok(group.map_or(0, |group| group.requeue(ids)))
    }
}
