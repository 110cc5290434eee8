//! What a member does from time to time: report that it has joined, commit without being asked, and
//! leave its partitions to others while all handlers are busy.

use std::time::{Duration, Instant};

use lightbus_core::Result;
use rdkafka::consumer::Consumer as _;

use super::{Reading, start, worker::Worker};

/// How long to wait for partitions before joining counts as done: others may have all of them.
const JOIN_LIMIT: Duration = Duration::from_secs(3);
/// How often to commit without being asked: what was taken, and what was skipped.
const COMMIT_INTERVAL: Duration = Duration::from_millis(300);

/// When each of these is due.
pub(super) struct Schedule {
    join_until: Instant,
    retry_at: Instant,
    commit_at: Instant,
    wanted_at: Instant,
    ask_at: Instant,
}

impl Schedule {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            join_until: now + JOIN_LIMIT,
            retry_at: now,
            commit_at: now + COMMIT_INTERVAL,
            wanted_at: now,
            ask_at: now,
        }
    }

    pub(super) fn begin_joining(&mut self, now: Instant) {
        self.join_until = now + JOIN_LIMIT;
    }

    /// Partitions were assigned: there is nothing more to wait for.
    pub(super) fn end_joining(&mut self) {
        self.join_until = Instant::now();
    }

    /// Whether what failed may be tried again.
    pub(super) fn may_retry(&self, now: Instant) -> bool {
        now >= self.retry_at
    }

    pub(super) fn retry_at(&mut self, when: Instant) {
        self.retry_at = when;
    }
}

impl<R: Reading> Worker<R> {
    /// Does what is due.
    pub(super) fn tick(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.joined.is_some() && now >= self.schedule.join_until {
            let done = self.positions.is_empty()
                || start::is_established(&self.consumer, &self.spec, &self.positions)?;
            if done && let Some(joined) = self.joined.take() {
                // Fails only if the caller has gone: then the handoff is closed, or will be.
                let _ = joined.send(Ok(()));
            }
        }
        if now >= self.schedule.commit_at {
            self.schedule.commit_at = now + COMMIT_INTERVAL;
            // What is staged is committed when it can be handed over, not before.
            self.commits.poll_commits(!R::COMMITS_FIRST || self.claim == 0);
        }
        self.release(now)
    }

    /// Leaves the group while the driver has no credit, and joins again when it has.
    ///
    /// A partition has one owner, so a worker without credit would keep its calls from workers that
    /// are free.
    fn release(&mut self, now: Instant) -> Result<()> {
        let Some(after) = self.spec.release_after else { return Ok(()) };
        if self.handoff.is_wanted() || self.joined.is_some() || self.claim > 0 {
            self.schedule.wanted_at = now;
            if self.released {
                self.released = false;
                self.subscribe()?;
            }
        } else if !self.released
            && now >= self.schedule.wanted_at + after
            && now >= self.schedule.ask_at
        {
            self.schedule.ask_at = now + after;
            if self.has_other_members() {
                tracing::debug!(
                    group = self.spec.group,
                    "all handlers are busy: partitions are left to other workers"
                );
                self.consumer.unsubscribe();
                self.released = true;
            }
        }
        Ok(())
    }

    fn has_other_members(&self) -> bool {
        match self.consumer.fetch_group_list(Some(&self.spec.group), self.spec.timeout) {
            Ok(list) => list.groups().iter().any(|group| group.members().len() > 1),
            Err(error) => {
                tracing::debug!(%error, group = self.spec.group, "the members of the group could not be read");
                false
            }
        }
    }
}
