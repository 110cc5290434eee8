//! The commits of a member: which offsets are due, and who waits for them.
//!
//! A commit is asked for by any thread ([`Assignments::request_commit`]), and by the clock. The
//! member's thread picks the requests up in [`Commits::poll_commits`], gathers what is settled and not
//! committed, and gives it to the [`Committer`]'s thread; the answer comes back through the consumer's
//! context and is matched in [`Commits::answered`].
//!
//! At most one commit is in flight. A second one, sent before the first is answered, could overtake it,
//! and the group would go back to an older position. Requests that arrive meanwhile share the next one.
//!
//! A commit that is not answered within the limit counts as failed, so that whoever waits for it can
//! try again. Its answer may still arrive later: it is recognised by the offsets it covers, and an
//! answer that does not match the commit in flight is dropped. Nothing is marked as committed unless
//! the group has said so, so a commit that fails is simply part of the next one.
//!
//! Held by `no_call_runs_twice_while_workers_come_and_go` and
//! `nothing_is_lost_when_one_of_three_brokers_is_killed` (tests/transport/faults.rs).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lightbus_core::Name;
use rdkafka::{
    Offset, TopicPartitionList,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
};
use tokio::sync::oneshot;

use super::{
    Assignments,
    committer::{Committer, refused},
    offset_tracker::Committed,
};

/// Tells whoever asked for a commit what became of it.
pub(super) type CommitWaiter = oneshot::Sender<KafkaResult<()>>;

/// A commit that was sent and not answered.
struct InFlight {
    /// What is committed, by assignment.
    commits: Vec<(u64, Committed)>,
    /// The same as the group sees it, to recognise the answer.
    offsets: Vec<(Name, i32, i64)>,
    waiters: Vec<CommitWaiter>,
    until: Instant,
}

/// The commits of a member.
pub(super) struct Commits {
    assignments: Arc<Assignments>,
    committer: Committer,
    in_flight: Option<InFlight>,
    limit: Duration,
}

impl Commits {
    pub(super) fn new(
        assignments: Arc<Assignments>,
        committer: Committer,
        limit: Duration,
    ) -> Self {
        Self { assignments, committer, in_flight: None, limit }
    }

    pub(super) fn committer(&self) -> &Committer {
        &self.committer
    }

    pub(super) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Sends a commit, if one was asked for, or `anyway`, and none is in flight. Ends one that was not
    /// answered in time.
    pub(super) fn poll_commits(&mut self, anyway: bool) {
        if self.in_flight.as_ref().is_some_and(|in_flight| Instant::now() >= in_flight.until) {
            self.end(Err(KafkaError::ConsumerCommit(Code::OperationTimedOut)));
        }
        if self.in_flight.is_some() {
            return;
        }
        let waiters = self.assignments.take_waiters();
        if !anyway && waiters.is_empty() {
            return;
        }
        let ahead = self.assignments.ahead();
        let due: Vec<_> = {
            let partitions = self.assignments.partitions();
            partitions
                .iter()
                .filter_map(|(id, partition)| Some((*id, partition.tracker.uncommitted(ahead)?)))
                .collect()
        };
        self.begin(due, waiters);
    }

    /// Sends the last commit of partitions that are given up. None may be in flight.
    pub(super) fn begin_final(&mut self, assignments: &[u64], waiter: CommitWaiter) {
        let due: Vec<_> = {
            let partitions = self.assignments.partitions();
            let of = |id: &u64| Some((*id, partitions.get(id)?.tracker.final_position()?));
            assignments.iter().filter_map(of).collect()
        };
        self.begin(due, vec![waiter]);
    }

    fn begin(&mut self, commits: Vec<(u64, Committed)>, waiters: Vec<CommitWaiter>) {
        let until = Instant::now() + self.limit;
        let mut request = TopicPartitionList::with_capacity(commits.len());
        let mut offsets = Vec::with_capacity(commits.len());
        {
            let partitions = self.assignments.partitions();
            for (id, committed) in &commits {
                if let Some(partition) = partitions.get(id) {
                    let mut element = request.add_partition(&partition.topic, partition.partition);
                    // Never refused: no position is negative.
                    let _ = element.set_offset(Offset::Offset(committed.position));
                    element.set_metadata(committed.to_text());
                    let topic = Name::clone(&partition.topic);
                    offsets.push((topic, partition.partition, committed.position));
                }
            }
        }
        let nothing = offsets.is_empty();
        self.in_flight = Some(InFlight { commits, offsets, waiters, until });
        if nothing {
            self.end(Ok(()));
        } else if let Err(error) = self.committer.begin(request) {
            self.end(Err(error));
        }
    }

    /// Lets go of the consumer, within `limit` if it can be done.
    pub(super) fn close(self, limit: Duration) {
        self.committer.end(limit);
    }

    /// Takes an answer.
    pub(super) fn answered(&mut self, answer: KafkaResult<()>, list: &TopicPartitionList) {
        let Some(in_flight) = &self.in_flight else { return };
        // It may be the late answer to a commit that was given up.
        if !in_flight.offsets.iter().all(|(topic, partition, position)| {
            list.find_partition(topic, *partition)
                .is_some_and(|element| element.offset() == Offset::Offset(*position))
        }) {
            return;
        }
        self.end(answer.and_then(|()| refused(list)));
    }

    fn end(&mut self, answer: KafkaResult<()>) {
        let Some(InFlight { commits, waiters, .. }) = self.in_flight.take() else { return };
        match &answer {
            Ok(()) => {
                let mut partitions = self.assignments.partitions();
                for (id, committed) in commits {
                    if let Some(partition) = partitions.get_mut(&id) {
                        partition.tracker.committed(committed);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "offsets could not be committed yet"),
        }
        for waiter in waiters {
            // Fails only if it waits no more.
            let _ = waiter.send(answer.clone());
        }
    }
}
