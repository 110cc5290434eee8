//! The partitions that a member owns, and what is settled of each.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use lightbus_core::{Name, Result, Session};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use tokio::sync::oneshot;

use super::{commits::CommitWaiter, offset_tracker::OffsetTracker};
use crate::error::{Sent, from_kafka};

/// With a window of at most this many records, exactly what is taken is committed before it is handed
/// over. A larger one means quick handlers: as many records as it holds are committed in advance, along
/// with what is settled, so that none waits for a commit of its own.
const EXACT: usize = 32;

/// Which record it is: the assignment of its partition, and its offset. An assignment that has ended
/// means nothing any more: the record belongs to another member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPosition {
    pub(crate) assignment: u64,
    pub(crate) offset: i64,
}

/// A member's partitions, by the number of their assignment. Shared between the member's thread, which
/// takes and commits records, and the driver, which settles them.
pub(crate) struct Assignments {
    partitions: Mutex<HashMap<u64, Partition>>,
    requests: Mutex<CommitRequests>,
    /// How many records the driver holds at most.
    window: AtomicUsize,
    limit: Duration,
    broker: String,
}

pub(crate) struct Partition {
    pub(crate) topic: Name,
    pub(crate) partition: i32,
    pub(crate) tracker: OffsetTracker,
    /// What is handled of this assignment. Revoked with it.
    pub(crate) session: Session,
    /// How many of its records are being dead-lettered.
    pub(super) kept: usize,
}

/// Keeps a partition from being given up.
pub(crate) struct Kept {
    assignments: Arc<Assignments>,
    assignment: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(partition) = self.assignments.partitions().get_mut(&self.assignment) {
            partition.kept = partition.kept.saturating_sub(1);
        }
    }
}

/// Commits that were asked for, and that the member's thread has not begun.
#[derive(Default)]
struct CommitRequests {
    waiters: Vec<CommitWaiter>,
    thread: Option<Thread>,
    closed: bool,
}

impl Assignments {
    /// `limit` is how long a commit may take.
    pub(crate) fn new(broker: &str, limit: Duration) -> Self {
        Self {
            partitions: Mutex::default(),
            requests: Mutex::default(),
            window: AtomicUsize::new(1),
            limit,
            broker: broker.to_owned(),
        }
    }

    pub(crate) fn partitions(&self) -> MutexGuard<'_, HashMap<u64, Partition>> {
        // A panic while it is locked leaves it whole.
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the topic and number of each partition.
    pub(crate) fn owned(&self) -> Vec<(Name, i32)> {
        let partitions = self.partitions();
        partitions.values().map(|owned| (Name::clone(&owned.topic), owned.partition)).collect()
    }

    /// Marks records as settled.
    pub(crate) fn settle(&self, positions: impl IntoIterator<Item = RecordPosition>) {
        let mut partitions = self.partitions();
        for position in positions {
            if let Some(partition) = partitions.get_mut(&position.assignment) {
                partition.tracker.settle(position.offset);
            }
        }
    }

    /// Sets how many records the driver holds at most.
    pub(crate) fn resize(&self, window: usize) {
        self.window.store(window, Ordering::Relaxed);
    }

    /// Returns how many records of a partition are committed before they are taken.
    pub(super) fn ahead(&self) -> i64 {
        let window = self.window.load(Ordering::Relaxed);
        if window > EXACT { i64::try_from(window).unwrap_or(i64::MAX) } else { 0 }
    }

    /// Whether all of these may be handed over. Those of assignments that have ended hold up none.
    pub(super) fn are_covered(&self, positions: impl IntoIterator<Item = RecordPosition>) -> bool {
        let partitions = self.partitions();
        positions.into_iter().all(|position| {
            let partition = partitions.get(&position.assignment);
            partition.is_none_or(|partition| partition.tracker.is_covered(position.offset))
        })
    }

    /// Counts a suspect that is about to be handled, and waits until the group knows. Returns `false` if
    /// another member has it.
    pub(crate) async fn begin(&self, position: RecordPosition) -> Result<bool> {
        let begun = |partition: &mut Partition| partition.tracker.begin(position.offset);
        if !self.partitions().get_mut(&position.assignment).is_some_and(begun) {
            return Ok(false);
        }
        self.commit().await?;
        Ok(true)
    }

    /// The session of each of these; a revoked one where the assignment has ended.
    pub(crate) fn sessions(
        &self,
        positions: impl IntoIterator<Item = RecordPosition>,
    ) -> Vec<Session> {
        let partitions = self.partitions();
        let session = |position: RecordPosition| match partitions.get(&position.assignment) {
            Some(partition) => partition.session.clone(),
            None => {
                let ended = Session::new();
                ended.revoke();
                ended
            }
        };
        positions.into_iter().map(session).collect()
    }

    /// From now on nothing of these partitions begins.
    pub(super) fn revoke(&self, assignments: &[u64]) {
        let partitions = self.partitions();
        assignments
            .iter()
            .filter_map(|id| partitions.get(id))
            .for_each(|partition| partition.session.revoke());
    }

    /// Whether a record of these partitions is being handled or dead-lettered.
    pub(crate) fn is_held(&self, assignments: &[u64]) -> bool {
        let partitions = self.partitions();
        assignments
            .iter()
            .filter_map(|id| partitions.get(id))
            .any(|partition| partition.session.at_work() > 0 || partition.kept > 0)
    }

    /// Keeps the partition of a record until the guard is dropped, as far as `revoke_timeout` allows.
    /// `None` if another member has it.
    pub(crate) fn keep(self: &Arc<Self>, position: RecordPosition) -> Option<Kept> {
        let mut partitions = self.partitions();
        partitions.get_mut(&position.assignment)?.kept += 1;
        Some(Kept { assignments: Arc::clone(self), assignment: position.assignment })
    }

    /// Commits what is settled by now, and waits for the group's answer, at most the limit.
    ///
    /// Does nothing once the member has left: it has committed then.
    pub(crate) async fn commit(&self) -> Result<()> {
        let answer = match tokio::time::timeout(self.limit, self.request_commit()).await {
            Ok(answer) => answer.unwrap_or(Ok(())),
            Err(_) => Err(KafkaError::ConsumerCommit(Code::OperationTimedOut)),
        };
        answer.map_err(|error| {
            from_kafka(error, &self.broker, Sent::Harmless).during("committing offsets")
        })
    }

    /// Asks the member's thread to commit what is settled by now.
    pub(super) fn request_commit(&self) -> oneshot::Receiver<KafkaResult<()>> {
        let (waiter, answer) = oneshot::channel();
        let mut requests = self.requests();
        if !requests.closed {
            requests.waiters.retain(|waiter| !waiter.is_closed());
            requests.waiters.push(waiter);
            if let Some(thread) = &requests.thread {
                thread.unpark();
            }
        }
        answer
    }

    /// Takes those who have asked for a commit.
    pub(super) fn take_waiters(&self) -> Vec<CommitWaiter> {
        std::mem::take(&mut self.requests().waiters)
    }

    /// Sets the thread to unpark when a commit is asked for.
    pub(super) fn serve_by(&self, thread: Thread) {
        self.requests().thread = Some(thread);
    }

    /// Accepts no more requests.
    pub(super) fn close(&self) {
        let mut requests = self.requests();
        requests.closed = true;
        requests.waiters.clear();
        requests.thread = None;
    }

    fn requests(&self) -> MutexGuard<'_, CommitRequests> {
        // Nothing panics while it is locked.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
