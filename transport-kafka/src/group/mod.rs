//! A consumer-group member. Each owns a thread that polls librdkafka on time, fetches when the driver
//! has credit, and hands partitions back cleanly.
//!
//! `worker` is that thread's loop, with `rebalance`, `fetch` and `tick` as its parts; `commits` decides
//! what to commit and `committer` does it. `assignments` and `handoff` are what the thread shares with
//! the driver. `offset_tracker` knows how far one partition is settled, `deliveries` what was delivered
//! in vain, `start` where a new group begins, and `membership` is called by librdkafka.

mod assignments;
mod commits;
mod committer;
mod deliveries;
mod fetch;
mod handoff;
mod members;
mod membership;
mod offset_tracker;
mod rebalance;
mod start;
mod tick;
mod worker;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lightbus_core::{Error, ErrorKind, Name, Result, transport::Start};
use rdkafka::{ClientConfig, Message, message::BorrowedHeaders};
use tokio::sync::oneshot;

pub(crate) use assignments::{Assignments, Kept, RecordPosition};
pub(crate) use handoff::Handoff;
pub(crate) use members::{Members, TopicPartition};
pub(crate) use offset_tracker::Committed;

/// How long to wait for a member to leave.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// How a member reads records.
pub(crate) trait Reading: Send + 'static {
    /// What is handed over to the driver.
    type Item: Send + 'static;

    /// Whether a record is committed before it is handed over, rather than when it is settled: at most
    /// once rather than at least once.
    const COMMITS_FIRST: bool;

    /// Reads a record; `None` to skip it, which settles it.
    fn read<M: Message<Headers = BorrowedHeaders>>(
        &mut self,
        record: &M,
        position: RecordPosition,
    ) -> Option<Self::Item>;

    /// Notes how often a record was delivered, counted from 1, before it is handed over.
    fn count(item: &mut Self::Item, delivery: u32) {
        let _ = (item, delivery);
    }
}

/// How a member joins its group, and what it reads.
pub(crate) struct MemberSpec {
    pub(crate) config: ClientConfig,
    pub(crate) broker: String,
    pub(crate) group: String,
    /// They must exist.
    pub(crate) topics: Vec<Name>,
    /// Where the group begins in partitions of which it has committed nothing.
    pub(crate) start: Start,
    /// How long a request may take.
    pub(crate) timeout: Duration,
    /// How long handlers may hold records of partitions that are being revoked.
    pub(crate) revoke_timeout: Duration,
    /// Leave the partitions to other members when nothing was asked for during this time.
    pub(crate) release_after: Option<Duration>,
}

/// A member of a group. Dropped, it leaves.
pub(crate) struct Member<I> {
    assignments: Arc<Assignments>,
    handoff: Arc<Handoff<I>>,
    left: Mutex<Option<oneshot::Receiver<()>>>,
}

impl<I: Send + 'static> Member<I> {
    /// Joins a group. When it returns, the group receives everything that is sent from then on.
    ///
    /// If the future is dropped, the member leaves.
    pub(crate) async fn join<R: Reading<Item = I>>(
        spec: MemberSpec,
        reading: R,
        handoff: &Arc<Handoff<I>>,
    ) -> Result<Self> {
        let (joined, wait) = oneshot::channel();
        let (ended, left) = oneshot::channel();
        let consumer = worker::consumer(&spec)?;
        let assignments = Arc::new(Assignments::new(&spec.broker, spec.timeout));
        let member = Self {
            assignments: Arc::clone(&assignments),
            handoff: Arc::clone(handoff),
            left: Mutex::new(Some(left)),
        };
        let name = "lightbus-kafka".to_owned();
        let handoff = Arc::clone(handoff);
        std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                worker::run(spec, consumer, assignments, handoff, reading, joined, ended)
            })
            .map_err(|error| {
                Error::new(ErrorKind::Unavailable, "no thread could be started for the consumer")
                    .because(error)
            })?;
        wait.await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Unexpected, "the consumer ended")))?;
        Ok(member)
    }

    pub(crate) fn assignments(&self) -> &Arc<Assignments> {
        &self.assignments
    }

    /// Leaves the group, and waits until that is done, at most [`LEAVE_LIMIT`].
    pub(crate) async fn leave(&self) {
        self.handoff.close();
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(left) = left
            && tokio::time::timeout(LEAVE_LIMIT, left).await.is_err()
        {
            tracing::debug!(
                "a consumer takes long to leave its group, and is waited for no longer"
            );
        }
    }
}

impl<I> Drop for Member<I> {
    fn drop(&mut self) {
        self.handoff.close();
    }
}
