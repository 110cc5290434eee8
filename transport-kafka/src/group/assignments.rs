//! Which partitions a member has, and what of them is settled.

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

/// A record in a member's hands: the assignment of its partition, and its offset. Of an assignment
/// that is over it means nothing: then another has the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordPosition {
    pub(crate) assignment: u64,
    pub(crate) offset: i64,
}

/// A member's partitions.
pub(crate) struct Assignments {
    parts: Mutex<HashMap<u64, Partition>>,
    asked: Mutex<Asked>,
    limit: Duration,
    broker: String,
}

pub(crate) struct Partition {
    pub(crate) topic: Name,
    pub(crate) partition: i32,
    pub(crate) tracker: OffsetTracker,
}

/// Who waits for a commit that the member's thread has not begun.
#[derive(Default)]
struct Asked {
    asking: Vec<CommitWaiter>,
    thread: Option<Thread>,
    closed: bool,
}

impl Assignments {
    /// `limit` is how long a commit may take.
    pub(crate) fn new(broker: &str, limit: Duration) -> Self {
        Self { parts: Mutex::default(), asked: Mutex::default(), limit, broker: broker.to_owned() }
    }

    pub(crate) fn parts(&self) -> MutexGuard<'_, HashMap<u64, Partition>> {
        // What is panicked at while it is locked leaves it whole.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that records are settled.
    pub(crate) fn settle(&self, places: impl IntoIterator<Item = RecordPosition>) {
        let mut parts = self.parts();
        for place in places {
            if let Some(partition) = parts.get_mut(&place.assignment) {
                partition.tracker.settle(place.offset);
            }
        }
    }

    /// Whether anybody holds a record of these partitions.
    pub(crate) fn is_held(&self, assignments: &[u64]) -> bool {
        let parts = self.parts();
        assignments
            .iter()
            .filter_map(|id| parts.get(id))
            .any(|partition| partition.tracker.held() > 0)
    }

    /// Has the group told what is settled by now, and waits for its answer, no longer than the limit.
    ///
    /// Once the member has left, what was settled by then was told as it left.
    pub(crate) async fn commit(&self) -> Result<()> {
        let answer = match tokio::time::timeout(self.limit, self.ask()).await {
            Ok(answer) => answer.unwrap_or(Ok(())),
            Err(_) => Err(KafkaError::ConsumerCommit(Code::OperationTimedOut)),
        };
        answer.map_err(|error| {
            from_kafka(error, &self.broker, Sent::Harmless)
                .during("telling the group what is handled")
        })
    }

    /// Asks the member's thread to commit what is settled by now.
    pub(super) fn ask(&self) -> oneshot::Receiver<KafkaResult<()>> {
        let (asking, answer) = oneshot::channel();
        let mut asked = self.asked();
        if !asked.closed {
            asked.asking.retain(|asking| !asking.is_closed());
            asked.asking.push(asking);
            if let Some(thread) = &asked.thread {
                thread.unpark();
            }
        }
        answer
    }

    /// Those who have asked.
    pub(super) fn asking(&self) -> Vec<CommitWaiter> {
        std::mem::take(&mut self.asked().asking)
    }

    /// The thread to be woken.
    pub(super) fn serve_by(&self, thread: Thread) {
        self.asked().thread = Some(thread);
    }

    /// From now on nothing is committed.
    pub(super) fn close(&self) {
        let mut asked = self.asked();
        asked.closed = true;
        asked.asking.clear();
        asked.thread = None;
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        // Nothing panics while it is locked.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
