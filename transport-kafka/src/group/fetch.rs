//! Records from the partitions' queues to the driver.
//!
//! Records are taken only with credit: the driver asks [`Handoff`](super::Handoff) for some, a worker
//! claims that credit once it has a record in its hands, and puts what it took there. In between a commit
//! may have to be answered; what was taken is staged until then, and a partition that is revoked
//! meanwhile takes its staged records with it.
//!
//! - Of calls, which run at most once, the offset behind them is committed.
//! - Of events, it is committed that they may have begun: if the process vanishes, the next owner counts
//!   them as delivered in vain (`deliveries.rs`). With quick handlers earlier commits usually
//!   cover what is taken, and nothing waits ([`Assignments::ahead`](super::Assignments)).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lightbus_core::{Name, Result};
use rdkafka::{Message, consumer::base_consumer::PartitionQueue, message::BorrowedMessage};
use tokio::sync::oneshot::error::TryRecvError;

use super::{
    Reading, RecordPosition,
    membership::Membership,
    worker::{BUSY, Worker, continue_unless_fatal},
};

/// The records of a partition.
pub(super) struct Queue {
    pub(super) assignment: u64,
    pub(super) topic: Name,
    pub(super) partition: i32,
    pub(super) queue: PartitionQueue<Membership>,
}

impl Queue {
    pub(super) fn is_of(&self, record: &BorrowedMessage<'_>) -> bool {
        self.partition == record.partition() && *self.topic == *record.topic()
    }

    /// Reads the next record, if there is one.
    fn poll<R: Reading>(
        &self,
        reading: &mut R,
        broker: &str,
    ) -> Result<Option<(RecordPosition, Option<R::Item>)>> {
        match self.queue.poll(Duration::ZERO) {
            Some(Ok(record)) => {
                let assignment = self.assignment;
                let position = RecordPosition { assignment, offset: record.offset() };
                Ok(Some((position, reading.read(&record, position))))
            }
            Some(Err(error)) => continue_unless_fatal(error, broker).map(|()| None),
            None => Ok(None),
        }
    }
}

impl<R: Reading> Worker<R> {
    /// Hands over as many records as there are and the driver has credit for. Returns whether there
    /// were any.
    pub(super) fn fetch(&mut self) -> Result<bool> {
        if self.claim > 0 {
            return Ok(self.schedule.may_retry(Instant::now()) && self.hand_over_staged());
        }
        self.buffer_one()?;
        if self.buffered.is_empty() {
            return Ok(false);
        }
        let claim = self.handoff.claim();
        if claim == 0 {
            return Ok(false);
        }
        let (taken, failed) = self.take(claim);
        let covered = || self.assignments.are_covered(taken.iter().map(|(position, _)| *position));
        if R::COMMITS_FIRST || !covered() {
            self.staged = taken;
            self.claim = claim;
            self.hand_over_staged();
        } else {
            self.handoff.put(taken.into_iter().map(|(_, item)| item), claim);
        }
        failed.map_or(Ok(true), Err)
    }

    /// Reads one record, unless there is one already: credit is claimed only by a worker that has one.
    fn buffer_one(&mut self) -> Result<()> {
        if !self.buffered.is_empty() {
            return Ok(());
        }
        for _ in 0..self.queues.len() {
            self.cursor = (self.cursor + 1) % self.queues.len();
            let queue = &self.queues[self.cursor];
            if let Some(read) = queue.poll(&mut self.reading, &self.spec.broker)? {
                self.buffered.push_back(read);
                break;
            }
        }
        Ok(())
    }

    /// Takes at most `claim` records, from the partitions in turn. An error does not lose those that
    /// were taken before it.
    #[allow(clippy::type_complexity, reason = "said once, where it is made")]
    fn take(
        &mut self,
        claim: usize,
    ) -> (Vec<(RecordPosition, R::Item)>, Option<lightbus_core::Error>) {
        let mut taken: Vec<(RecordPosition, R::Item)> = Vec::with_capacity(claim.min(128));
        let assignments = Arc::clone(&self.assignments);
        let mut partitions = assignments.partitions();
        let mut note = |(position, item): (RecordPosition, Option<R::Item>), taken: &mut Vec<_>| {
            let Some(partition) = partitions.get_mut(&position.assignment) else { return };
            if !partition.tracker.take(position.offset) {
                return;
            }
            let delivery = partition.tracker.deliveries(position.offset).saturating_add(1);
            if R::COMMITS_FIRST || item.is_none() {
                partition.tracker.settle(position.offset);
            }
            taken.extend(item.map(|mut item| {
                R::count(&mut item, delivery);
                (position, item)
            }));
        };
        while taken.len() < claim
            && let Some(read) = self.buffered.pop_front()
        {
            note(read, &mut taken);
        }
        // Records that are skipped cost no credit, but must not occupy the thread for ever either.
        let mut budget = claim.saturating_mul(16).max(1024);
        let count = self.queues.len();
        let mut visited = 0;
        while visited < count {
            let queue = &self.queues[self.cursor % count];
            visited += 1;
            loop {
                if taken.len() >= claim || budget == 0 {
                    return (taken, None);
                }
                match queue.poll(&mut self.reading, &self.spec.broker) {
                    Ok(Some(read)) => {
                        budget -= 1;
                        note(read, &mut taken);
                    }
                    Ok(None) => break,
                    Err(error) => return (taken, Some(error)),
                }
            }
            self.cursor = (self.cursor + 1) % count;
        }
        (taken, None)
    }

    /// Hands over what is staged, once its commit is answered. Asks for the commit first.
    pub(super) fn hand_over_staged(&mut self) -> bool {
        let answer = self.staged_commit.get_or_insert_with(|| self.assignments.request_commit());
        let failed = match answer.try_recv() {
            Err(TryRecvError::Empty) => return false,
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(TryRecvError::Closed) => Some("the commit was abandoned".to_owned()),
        };
        self.staged_commit = None;
        if let Some(error) = failed {
            tracing::debug!(error, "records wait for their offsets to be committed");
            self.schedule.retry_at(Instant::now() + 5 * BUSY);
            return false;
        }
        let staged = std::mem::take(&mut self.staged);
        let claim = std::mem::take(&mut self.claim);
        self.handoff.put(staged.into_iter().map(|(_, item)| item), claim);
        true
    }
}
