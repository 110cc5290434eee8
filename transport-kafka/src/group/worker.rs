//! The thread of a group member.
//!
//! Each [`Member`](super::Member) owns one thread, which runs [`Worker::work`] until the member leaves.
//! A second thread, the [`Committer`](super::committer), exists only because librdkafka commits
//! without a time limit. Everything else of the consumer belongs to the worker's thread: it alone
//! polls librdkafka, assigns and revokes partitions, and reads their queues. Nothing blocks it for
//! longer than a request may take, because librdkafka removes a member from its group that does not
//! poll in time.
//!
//! The thread sleeps in `park_timeout`. It is unparked when librdkafka has an event or a partition's
//! queue has a record, when the driver asks for records ([`Handoff::fetch`]), when somebody asks for a
//! commit ([`Assignments::request_commit`]), and when a commit is answered.
//!
//! Each turn of the loop polls librdkafka, handles rebalances (`rebalance.rs`), hands records over
//! (`fetch.rs`), starts a commit if one was asked for (`commits.rs`), and does what is due (`tick.rs`).
//! Two things are shared with the async side: [`Handoff`], into which records go when the driver has
//! credit for them, and [`Assignments`], in which settled offsets are noted.
//!
//! The race that matters is a commit against a revocation. A commit that reaches the group after the
//! next owner has begun would move the position back: its events would be redelivered, and its calls
//! would run twice. So at most one commit is in flight, and a partition is given up only after it is
//! answered. Held by `no_call_runs_twice_while_workers_come_and_go` and
//! `nothing_is_lost_or_out_of_order_in_a_rebalance_storm` (tests/transport/faults.rs).

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    thread::{self, park_timeout},
    time::{Duration, Instant},
};

use lightbus_core::{Error, ErrorKind, Result};
use rdkafka::{
    Message, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult},
};
use tokio::sync::oneshot;

use super::{
    Assignments, Handoff, MemberSpec, Reading, RecordPosition,
    commits::Commits,
    committer::Committer,
    fetch::Queue,
    membership::{self, Change, Membership},
    rebalance::Revoking,
    start::{self, Positions},
    tick::Schedule,
};
use crate::error::{Sent, code, from_kafka, is_refusal};

pub(super) type Consumer = BaseConsumer<Membership>;

/// With nothing to do, the loop turns after this: librdkafka wants to be polled now and then.
const IDLE: Duration = Duration::from_millis(200);
/// While something is in progress, the loop turns after this.
pub(super) const BUSY: Duration = Duration::from_millis(10);
/// How long a member that leaves waits for its last commit.
const FINAL_COMMIT_LIMIT: Duration = Duration::from_secs(3);

/// The thread to unpark, set once it runs.
pub(super) type Waker = Arc<OnceLock<thread::Thread>>;

/// Returns a consumer that has not joined its group yet, and the waker of its thread.
pub(super) fn consumer(spec: &MemberSpec) -> Result<(Arc<Consumer>, Waker)> {
    let mut made = Consumer::from_config_and_context(&spec.config, Membership::default())
        .map_err(|error| from_kafka(error, &spec.broker, Sent::Harmless))?;
    let waker = Waker::default();
    let woken = Arc::clone(&waker);
    made.set_nonempty_callback(move || {
        if let Some(thread) = woken.get() {
            thread.unpark();
        }
    });
    Ok((Arc::new(made), waker))
}

/// The body of the thread: joins, works until the member leaves, and leaves the group.
pub(super) fn run<R: Reading>(
    spec: MemberSpec,
    (consumer, waker): (Arc<Consumer>, Waker),
    assignments: Arc<Assignments>,
    handoff: Arc<Handoff<R::Item>>,
    reading: R,
    joined: oneshot::Sender<Result<()>>,
    ended: oneshot::Sender<()>,
) {
    // Set once: the thread is new.
    let _ = waker.set(thread::current());
    handoff.add_thread(thread::current());
    assignments.serve_by(thread::current());
    let committer = match Committer::start(&consumer) {
        Ok(committer) => committer,
        Err(error) => {
            let unable = Error::new(ErrorKind::Unavailable, "no thread could be started to commit");
            // Fails only if the caller has gone.
            let _ = joined.send(Err(unable.because(error)));
            return;
        }
    };
    let mut worker = Worker {
        commits: Commits::new(Arc::clone(&assignments), committer, spec.timeout),
        spec,
        assignments,
        handoff,
        reading,
        queues: Vec::new(),
        cursor: 0,
        buffered: VecDeque::new(),
        staged: Vec::new(),
        claim: 0,
        staged_commit: None,
        changes: VecDeque::new(),
        revoking: None,
        positions: Positions::new(),
        joined: Some(joined),
        next_assignment: 0,
        schedule: Schedule::new(Instant::now()),
        released: false,
        consumer,
    };
    let worked = catch_unwind(AssertUnwindSafe(|| worker.work()));
    let error = match worked {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error),
        Err(_) => Some(
            Error::new(ErrorKind::Unexpected, "the consumer's thread panicked")
                .hint("This is a bug in the transport"),
        ),
    };
    if let Some(error) = error {
        match worker.joined.take() {
            Some(joined) => drop(joined.send(Err(error))),
            None => worker.handoff.fail(error),
        }
    }
    worker.leave();
    // Fails only if the member was dropped.
    let _ = ended.send(());
}

pub(super) struct Worker<R: Reading> {
    pub(super) spec: MemberSpec,
    pub(super) assignments: Arc<Assignments>,
    pub(super) commits: Commits,
    pub(super) handoff: Arc<Handoff<R::Item>>,
    pub(super) reading: R,
    pub(super) queues: Vec<Queue>,
    /// The queue to read from next.
    pub(super) cursor: usize,
    /// Read before the driver asked for it: at most one record of each partition.
    pub(super) buffered: VecDeque<(RecordPosition, Option<R::Item>)>,
    /// Records that wait for a commit before they are handed over.
    pub(super) staged: Vec<(RecordPosition, R::Item)>,
    /// The credit with which they were taken.
    pub(super) claim: usize,
    /// The answer to their commit.
    pub(super) staged_commit: Option<oneshot::Receiver<KafkaResult<()>>>,
    /// Rebalances that were not handled yet, oldest first.
    pub(super) changes: VecDeque<Change>,
    pub(super) revoking: Option<Revoking>,
    /// Where a new group starts, as far as it could not be committed before the group had members.
    pub(super) positions: Positions,
    pub(super) joined: Option<oneshot::Sender<Result<()>>>,
    pub(super) next_assignment: u64,
    pub(super) schedule: Schedule,
    /// Out of the group, because all handlers are busy.
    pub(super) released: bool,
    /// Last, so that it is dropped after its queues.
    pub(super) consumer: Arc<Consumer>,
}

impl<R: Reading> Worker<R> {
    fn work(&mut self) -> Result<()> {
        self.positions = start::establish(&self.consumer, self.commits.committer(), &self.spec)?;
        self.schedule.begin_joining(Instant::now());
        self.subscribe()?;
        while !self.handoff.is_closed() {
            self.poll_events()?;
            self.handle_changes()?;
            let took = self.fetch()?;
            self.commits.poll_commits(false);
            self.tick()?;
            if !took {
                park_timeout(self.pause());
            }
        }
        Ok(())
    }

    pub(super) fn subscribe(&self) -> Result<()> {
        let topics: Vec<&str> = self.spec.topics.iter().map(|topic| &**topic).collect();
        self.consumer
            .subscribe(&topics)
            .map_err(|error| from_kafka(error, &self.spec.broker, Sent::Harmless))
    }

    /// Polls librdkafka, which calls back into the consumer's context, and collects what it left there.
    pub(super) fn poll_events(&mut self) -> Result<()> {
        // Several events may wait, and only the first of them wakes the thread.
        for _ in 0..4 {
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(record)) => {
                    // It arrived before its partition had a queue of its own.
                    let found = self.queues.iter().find(|queue| queue.is_of(&record));
                    if let Some(queue) = found {
                        let assignment = queue.assignment;
                        let position = RecordPosition { assignment, offset: record.offset() };
                        let item = self.reading.read(&record, position);
                        self.buffered.push_back((position, item));
                    }
                }
                Some(Err(error)) => continue_unless_fatal(error, &self.spec.broker)?,
                None => {}
            }
        }
        while let Some(change) = self.consumer.client().context().next() {
            self.changes.push_back(change);
        }
        while let Some((answer, list)) = self.consumer.client().context().answer() {
            self.commits.answered(answer, &list);
        }
        Ok(())
    }

    fn pause(&self) -> Duration {
        let busy = self.joined.is_some()
            || self.revoking.is_some()
            || !self.changes.is_empty()
            || self.claim > 0
            || self.commits.is_in_flight();
        if busy { BUSY } else { IDLE }
    }

    /// Commits what is settled, and leaves the group.
    fn leave(mut self) {
        self.buffered.clear();
        let limit = self.spec.timeout.min(FINAL_COMMIT_LIMIT);
        let all: Vec<u64> = self.assignments.partitions().keys().copied().collect();
        // A member whose consumer has failed leaves all the same.
        if R::COMMITS_FIRST {
            let _ = self.await_commits(Instant::now() + limit);
            if self.staged_commit.is_some() {
                self.hand_over_staged();
            }
        } else {
            let _ = self.commit_before_revoke(&all, limit);
        }
        self.staged.clear();
        self.consumer.client().context().leave();
        self.queues.clear();
        if let Some(Revoking { partitions, .. }) = self.revoking.take() {
            membership::unassign(&self.consumer, &partitions);
        }
        for change in self.changes.drain(..) {
            match change {
                Change::Assigned(_) => {
                    membership::assign(&self.consumer, &TopicPartitionList::new());
                }
                Change::Revoked { partitions, .. } => {
                    membership::unassign(&self.consumer, &partitions);
                }
            }
        }
        self.assignments.close();
        self.commits.close(FINAL_COMMIT_LIMIT);
        // Dropping the consumer leaves the group. If a commit is still in flight, the committer's
        // thread drops it later.
    }
}

/// Returns an error that ends the consumer; logs any other.
pub(super) fn continue_unless_fatal(error: KafkaError, broker: &str) -> Result<()> {
    if is_fatal(&error) {
        return Err(from_kafka(error, broker, Sent::Harmless));
    }
    tracing::debug!(%error, "the consumer reported an error and continues");
    Ok(())
}

/// Whether retrying cannot help: the consumer is unusable, or its user is refused.
fn is_fatal(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_)) || code(error).is_some_and(is_refusal)
}
