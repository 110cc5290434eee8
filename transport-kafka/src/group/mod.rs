//! Being a member of a consumer group: a thread for each, that does what librdkafka wants done in
//! time, takes records when the driver asks, and gives partitions up in an orderly way.

mod assignments;
mod commits;
mod committer;
mod handoff;
mod membership;
mod offset_tracker;
mod start;
mod worker;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lightbus_core::{Error, ErrorKind, Name, Result};
use rdkafka::{ClientConfig, Message, message::BorrowedHeaders};
use tokio::sync::oneshot;

pub(crate) use assignments::{Assignments, RecordPosition};
pub(crate) use handoff::Handoff;
pub(crate) use offset_tracker::Committed;

use lightbus_core::transport::Start;

/// How long a member that leaves is waited for.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// What becomes of records that a member reads.
pub(crate) trait Reading: Send + 'static {
    /// What is handed to the driver.
    type Item: Send + 'static;

    /// Whether a record counts as settled before it is handed out, rather than after it was handled.
    const COMMITS_FIRST: bool;

    /// Reads a record; `None` if it is for nobody, and counts as settled.
    fn read<M: Message<Headers = BorrowedHeaders>>(
        &mut self,
        record: &M,
        place: RecordPosition,
    ) -> Option<Self::Item>;
}

/// What a member is to do.
pub(crate) struct MemberSpec {
    pub(crate) config: ClientConfig,
    pub(crate) broker: String,
    pub(crate) group: String,
    /// All there already.
    pub(crate) topics: Vec<Name>,
    /// Where the group begins where it has not been yet.
    pub(crate) start: Start,
    /// How long an answer may take.
    pub(crate) timeout: Duration,
    /// How long those who hold records of partitions that are to be given up may take.
    pub(crate) revoke_timeout: Duration,
    /// Leave the group to others when nothing was asked for during this time.
    pub(crate) release_after: Option<Duration>,
}

/// A member of a group. Dropped, it leaves.
pub(crate) struct Member<I> {
    assignments: Arc<Assignments>,
    handoff: Arc<Handoff<I>>,
    left: Mutex<Option<oneshot::Receiver<()>>>,
}

impl<I: Send + 'static> Member<I> {
    /// Joins a group. When it returns, what is sent from then on reaches the group.
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
        // Dropped on the way, the member leaves.
        wait.await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Unexpected, "the consumer ended")))?;
        Ok(member)
    }

    pub(crate) fn assignments(&self) -> &Arc<Assignments> {
        &self.assignments
    }

    /// Leaves the group, and waits until that is done, for a while.
    pub(crate) async fn leave(&self) {
        self.handoff.close();
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(left) = left
            && tokio::time::timeout(LEAVE_LIMIT, left).await.is_err()
        {
            tracing::debug!("a consumer takes long to leave its group");
        }
    }
}

impl<I> Drop for Member<I> {
    fn drop(&mut self) {
        self.handoff.close();
    }
}
