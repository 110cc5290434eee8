//! Partitions assigned and revoked.
//!
//! librdkafka reports a rebalance in a callback and waits for its answer, `assign` or `unassign`. The
//! callback (`membership.rs`) only queues the change; it is answered here, in order, when it can be:
//!
//! - Assigned partitions are read from the group's committed offsets, asked for again until the
//!   group answers.
//! - Revoked partitions are read no more. Events that are being handled are waited for, at most
//!   `revoke_timeout`; those that wait to be handled are dropped, by the session of the assignment: the
//!   next owner has them. Then what is settled is committed, and only then is the partition given up. Of
//!   calls, a commit in flight is waited for instead: what it covers is handed over, and what it does
//!   not is left to the next owner.
//! - Lost partitions have another owner already: they are given up at once, without a commit.
//!
//! Held by `what_was_not_begun_when_its_partition_moved_is_handled_once` and
//! `a_newcomer_has_its_share_of_what_was_not_begun` (tests/transport/rebalance.rs).

use std::{
    collections::HashMap,
    thread::{self, park_timeout},
    time::{Duration, Instant},
};

use lightbus_core::{Name, Result, Session};
use rdkafka::{Offset, TopicPartitionList, consumer::Consumer as _};
use tokio::sync::oneshot;

use super::{
    Reading,
    assignments::Partition,
    fetch::Queue,
    membership::{self, Change},
    offset_tracker::{Committed, OffsetTracker},
    worker::{BUSY, Worker},
};
use crate::error::{Sent, from_kafka};

/// Partitions to be given up when no event of them is being handled any more.
pub(super) struct Revoking {
    pub(super) partitions: TopicPartitionList,
    assignments: Vec<u64>,
    until: Instant,
}

impl<R: Reading> Worker<R> {
    /// Answers rebalances, in their order.
    pub(super) fn handle_changes(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.is_revocation_pending(now)? {
            return Ok(());
        }
        while let Some(change) = self.changes.pop_front() {
            match change {
                Change::Assigned(partitions) => {
                    if !self.schedule.may_retry(now) {
                        self.changes.push_front(Change::Assigned(partitions));
                        return Ok(());
                    }
                    if let Err(error) = self.assign(&partitions) {
                        tracing::debug!(%error, "the group's offsets could not be read, asking again");
                        self.schedule.retry_at(now + 5 * BUSY);
                        self.changes.push_front(Change::Assigned(partitions));
                        return Ok(());
                    }
                }
                // A commit that reaches the group after the next owner's would have calls run twice;
                // and the calls that it covers are still to be handed over.
                Change::Revoked { partitions, lost: false }
                    if R::COMMITS_FIRST && self.is_committing() =>
                {
                    self.changes.push_front(Change::Revoked { partitions, lost: false });
                    return Ok(());
                }
                Change::Revoked { partitions, lost } => {
                    let assignments = self.close_queues(&partitions);
                    if !lost && !R::COMMITS_FIRST && self.assignments.is_held(&assignments) {
                        let until = now + self.spec.revoke_timeout;
                        self.revoking = Some(Revoking { partitions, assignments, until });
                        return Ok(());
                    }
                    self.give_up(&partitions, &assignments, lost)?;
                }
            }
        }
        Ok(())
    }

    /// Whether handlers still have time with events of partitions that are being revoked. Gives the
    /// partitions up when they are done, late, or the partitions are lost.
    fn is_revocation_pending(&mut self, now: Instant) -> Result<bool> {
        let Some(revoking) = &self.revoking else { return Ok(false) };
        let lost =
            self.changes.iter().any(|change| matches!(change, Change::Revoked { lost: true, .. }));
        let held = self.assignments.is_held(&revoking.assignments);
        if held && now < revoking.until && !lost {
            return Ok(true);
        }
        if held && !lost {
            tracing::warn!(
                group = self.spec.group,
                "handlers take longer than `revoke_timeout`: their events are redelivered to another process"
            );
        }
        if let Some(Revoking { partitions, assignments, .. }) = self.revoking.take() {
            self.give_up(&partitions, &assignments, lost)?;
        }
        Ok(false)
    }

    /// Whether a commit is in flight. Hands over what the last one covered.
    fn is_committing(&mut self) -> bool {
        if self.staged_commit.is_some() {
            self.hand_over_staged();
        }
        self.commits.is_in_flight() || self.staged_commit.is_some()
    }

    /// Begins to read partitions, each where the group left off.
    fn assign(&mut self, partitions: &TopicPartitionList) -> Result<()> {
        let mut committed = self.committed(partitions)?;
        let ends = self.ends_of_those_left_behind(&committed);
        let mut list = TopicPartitionList::new();
        for element in partitions.elements() {
            let key = (Name::from(element.topic()), element.partition());
            let tracker = match committed.remove(&key) {
                Some(committed) => OffsetTracker::new(committed, true, ends.get(&key).copied()),
                None => {
                    // A partition that was added since is read from its beginning.
                    let position = self.positions.get(&key).copied().unwrap_or(0);
                    OffsetTracker::new(Committed::at(position), false, None)
                }
            };
            let (topic, partition) = key;
            // Never refused: no position is negative.
            let position = Offset::Offset(tracker.position());
            let _ = list.add_partition_offset(&topic, partition, position);
            let assignment = self.next_assignment;
            self.next_assignment += 1;
            let (known, session) = (Name::clone(&topic), Session::new());
            let added = Partition { topic: known, partition, tracker, session, kept: 0 };
            self.assignments.partitions().insert(assignment, added);
            match self.consumer.split_partition_queue(&topic, partition) {
                Some(mut queue) => {
                    let thread = thread::current();
                    queue.set_nonempty_callback(move || thread.unpark());
                    self.queues.push(Queue { assignment, topic, partition, queue });
                }
                None => tracing::error!(topic = &*topic, partition, "a partition has no queue"),
            }
        }
        membership::assign(&self.consumer, &list);
        if list.count() > 0 {
            tracing::debug!(
                group = self.spec.group,
                partitions = list.count(),
                "partitions assigned"
            );
            self.schedule.end_joining();
        }
        Ok(())
    }

    /// Returns what the group has committed of these partitions.
    fn committed(
        &self,
        partitions: &TopicPartitionList,
    ) -> Result<HashMap<(Name, i32), Committed>> {
        let mut known = HashMap::new();
        if partitions.count() == 0 {
            return Ok(known);
        }
        let explain = |error| from_kafka(error, &self.spec.broker, Sent::Harmless);
        let found = self
            .consumer
            .committed_offsets(partitions.clone(), self.spec.timeout)
            .map_err(explain)?;
        for element in found.elements() {
            element.error().map_err(explain)?;
            if let Offset::Offset(position) = element.offset() {
                let committed = Committed::from_text(position, element.metadata());
                known.insert((element.topic().into(), element.partition()), committed);
            }
        }
        Ok(known)
    }

    /// Returns the ends of partitions whose last owner vanished; none if Kafka does not say them.
    fn ends_of_those_left_behind(
        &self,
        committed: &HashMap<(Name, i32), Committed>,
    ) -> HashMap<(Name, i32), i64> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in
            committed.iter().filter(|(_, one)| one.is_left_behind()).map(|(key, _)| key)
        {
            // Never refused: an end is no position.
            let _ = list.add_partition_offset(topic, *partition, Offset::End);
        }
        if list.count() == 0 {
            return HashMap::new();
        }
        match self.consumer.offsets_for_times(list, self.spec.timeout) {
            Ok(found) => found
                .elements()
                .iter()
                .filter_map(|element| match (element.error(), element.offset()) {
                    (Ok(()), Offset::Offset(end)) => {
                        Some(((Name::from(element.topic()), element.partition()), end))
                    }
                    _ => None,
                })
                .collect(),
            Err(error) => {
                tracing::debug!(%error, "the ends of partitions could not be read");
                HashMap::new()
            }
        }
    }

    /// Reads nothing more of these partitions, begins nothing of them, and returns their assignments.
    fn close_queues(&mut self, partitions: &TopicPartitionList) -> Vec<u64> {
        let mut assignments = Vec::new();
        for element in partitions.elements() {
            let found = self.queues.iter().position(|queue| {
                queue.partition == element.partition() && *queue.topic == *element.topic()
            });
            if let Some(index) = found {
                assignments.push(self.queues.swap_remove(index).assignment);
            }
        }
        self.assignments.revoke(&assignments);
        self.buffered.retain(|(position, _)| !assignments.contains(&position.assignment));
        // Not committed, so the next owner reads them.
        self.staged.retain(|(position, _)| !assignments.contains(&position.assignment));
        assignments
    }

    fn give_up(
        &mut self,
        partitions: &TopicPartitionList,
        assignments: &[u64],
        lost: bool,
    ) -> Result<()> {
        if !R::COMMITS_FIRST && !lost {
            self.commit_before_revoke(assignments, self.spec.timeout)?;
        }
        {
            let mut known = self.assignments.partitions();
            assignments.iter().for_each(|id| drop(known.remove(id)));
        }
        tracing::debug!(
            group = self.spec.group,
            partitions = assignments.len(),
            lost,
            "partitions revoked"
        );
        membership::unassign(&self.consumer, partitions);
        Ok(())
    }

    /// Commits what is settled of these partitions, and waits for the answer, at most `limit`.
    pub(super) fn commit_before_revoke(
        &mut self,
        assignments: &[u64],
        limit: Duration,
    ) -> Result<()> {
        let until = Instant::now() + limit;
        // A commit in flight must not reach the group after this one.
        self.await_commits(until)?;
        if self.commits.is_in_flight() {
            tracing::warn!(
                group = self.spec.group,
                "Kafka did not answer while partitions were revoked: some events are redelivered"
            );
            return Ok(());
        }
        let (waiter, mut answer) = oneshot::channel();
        self.commits.begin_final(assignments, waiter);
        self.await_commits(until)?;
        match answer.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                %error,
                group = self.spec.group,
                "offsets could not be committed before their partitions were revoked: some events are redelivered"
            ),
            Err(_) => tracing::warn!(
                group = self.spec.group,
                "offsets were not committed in time before their partitions were revoked: some events are redelivered"
            ),
        }
        Ok(())
    }

    /// Waits until no commit is in flight.
    pub(super) fn await_commits(&mut self, until: Instant) -> Result<()> {
        while self.commits.is_in_flight() && Instant::now() < until {
            self.poll_events()?;
            if self.commits.is_in_flight() {
                park_timeout(BUSY);
            }
        }
        Ok(())
    }
}
