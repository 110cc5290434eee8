//! The partitions that a member owns, and what is settled of each.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    thread::Thread,
    time::Duration,
};

use lightbus_core::{Name, Result};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use tokio::sync::oneshot;

use super::{commits::CommitWaiter, offset_tracker::OffsetTracker};
use crate::error::{Sent, from_kafka};

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
    limit: Duration,
    broker: String,
}

pub(crate) struct Partition {
    pub(crate) topic: Name,
    pub(crate) partition: i32,
    pub(crate) tracker: OffsetTracker,
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
            limit,
            broker: broker.to_owned(),
        }
    }

    pub(crate) fn partitions(&self) -> MutexGuard<'_, HashMap<u64, Partition>> {
        // A panic while it is locked leaves it whole.
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Whether a record of these partitions was handed over and is not settled.
    pub(crate) fn is_held(&self, assignments: &[u64]) -> bool {
        let partitions = self.partitions();
        assignments
            .iter()
            .filter_map(|id| partitions.get(id))
            .any(|partition| partition.tracker.held() > 0)
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
