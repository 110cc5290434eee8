//! What a member's thread does.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    thread::{self, park_timeout},
    time::{Duration, Instant},
};

use lightbus_core::{Error, ErrorKind, Name, Result};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _, base_consumer::PartitionQueue},
    error::{KafkaError, KafkaResult},
};
use tokio::sync::oneshot;

use super::{
    Assignments, Handoff, MemberSpec, Reading, RecordPosition,
    assignments::Partition,
    commits::Commits,
    committer::Committer,
    membership::{self, Change, Membership},
    offset_tracker::{Committed, OffsetTracker},
    start::{self, Positions},
};
use crate::error::{Sent, code, from_kafka, is_refusal};

type Consumer = BaseConsumer<Membership>;

/// With nothing to do, look again after this: librdkafka wants to be asked now and then.
const IDLE: Duration = Duration::from_millis(200);
/// While something is under way, look again after this.
const BUSY: Duration = Duration::from_millis(10);
/// How long to wait for partitions before joining counts as done: others may have all of them.
const JOIN_LIMIT: Duration = Duration::from_secs(3);
/// How long a member that leaves waits for the group to know how far it came.
const FINAL_COMMIT_LIMIT: Duration = Duration::from_secs(3);
/// The group is told what is taken, and what was skipped, this often.
const COMMIT_INTERVAL: Duration = Duration::from_millis(300);

/// Finds the thread to be woken, once it is there.
pub(super) type Waker = Arc<OnceLock<thread::Thread>>;

/// A consumer that has not joined yet, and who it wakes.
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

pub(super) fn run<R: Reading>(
    spec: MemberSpec,
    (consumer, waker): (Arc<Consumer>, Waker),
    assignments: Arc<Assignments>,
    handoff: Arc<Handoff<R::Item>>,
    reading: R,
    joined: oneshot::Sender<Result<()>>,
    ended: oneshot::Sender<()>,
) {
    // Said once: the thread is new.
    let _ = waker.set(thread::current());
    handoff.add_thread(thread::current());
    assignments.serve_by(thread::current());
    let committer = match Committer::start(&consumer) {
        Ok(committer) => committer,
        Err(error) => {
            let unable = Error::new(ErrorKind::Unavailable, "no thread could be started to commit");
            // Nobody waits any more: then nobody wants to know.
            let _ = joined.send(Err(unable.because(error)));
            return;
        }
    };
    let now = Instant::now();
    let mut worker = Worker {
        commits: Commits::new(Arc::clone(&assignments), committer, spec.timeout),
        spec,
        assignments,
        handoff,
        reading,
        queues: Vec::new(),
        cursor: 0,
        seen: VecDeque::new(),
        staged: Vec::new(),
        claim: 0,
        staged_answer: None,
        changes: VecDeque::new(),
        revoking: None,
        positions: Positions::new(),
        joined: Some(joined),
        join_until: now + JOIN_LIMIT,
        next_assignment: 0,
        retry_at: now,
        commit_at: now + COMMIT_INTERVAL,
        wanted_at: now,
        ask_at: now,
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
    // Nobody waits for it: then nobody wants to know.
    let _ = ended.send(());
}

struct Worker<R: Reading> {
    spec: MemberSpec,
    assignments: Arc<Assignments>,
    commits: Commits,
    handoff: Arc<Handoff<R::Item>>,
    reading: R,
    queues: Vec<Queue>,
    /// The queue whose turn it is.
    cursor: usize,
    /// Read, and not asked for yet: the first of its partition.
    seen: VecDeque<(RecordPosition, Option<R::Item>)>,
    /// Taken, and not committed yet, where that comes first.
    staged: Vec<(RecordPosition, R::Item)>,
    /// The claim by which they were taken.
    claim: usize,
    /// What becomes of their commit.
    staged_answer: Option<oneshot::Receiver<KafkaResult<()>>>,
    changes: VecDeque<Change>,
    revoking: Option<Revoking>,
    /// Where the group begins, where it could not be told.
    positions: Positions,
    joined: Option<oneshot::Sender<Result<()>>>,
    join_until: Instant,
    next_assignment: u64,
    retry_at: Instant,
    commit_at: Instant,
    wanted_at: Instant,
    ask_at: Instant,
    released: bool,
    /// The last field: queues end before it.
    consumer: Arc<Consumer>,
}

/// The records of a partition.
struct Queue {
    assignment: u64,
    topic: Name,
    partition: i32,
    queue: PartitionQueue<Membership>,
}

/// Partitions to be given up when nobody holds anything of them.
struct Revoking {
    partitions: TopicPartitionList,
    assignments: Vec<u64>,
    until: Instant,
}

impl<R: Reading> Worker<R> {
    fn work(&mut self) -> Result<()> {
        self.positions = start::establish(&self.consumer, self.commits.committer(), &self.spec)?;
        self.join_until = Instant::now() + JOIN_LIMIT;
        self.subscribe()?;
        while !self.handoff.is_closed() {
            self.serve()?;
            self.change()?;
            let took = self.take()?;
            self.commits.poll_commits(false);
            self.tick()?;
            if !took {
                park_timeout(self.pause());
            }
        }
        Ok(())
    }

    fn subscribe(&self) -> Result<()> {
        let topics: Vec<&str> = self.spec.topics.iter().map(|topic| &**topic).collect();
        self.consumer
            .subscribe(&topics)
            .map_err(|error| from_kafka(error, &self.spec.broker, Sent::Harmless))
    }

    /// Lets librdkafka say what it has to say.
    fn serve(&mut self) -> Result<()> {
        // More than one may wait, and only the first of them wakes.
        for _ in 0..4 {
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(record)) => {
                    // Came before its partition had a queue of its own.
                    let found = self.queues.iter().find(|queue| {
                        queue.partition == record.partition() && *queue.topic == *record.topic()
                    });
                    if let Some(queue) = found {
                        let place = RecordPosition {
                            assignment: queue.assignment,
                            offset: record.offset(),
                        };
                        let item = self.reading.read(&record, place);
                        self.seen.push_back((place, item));
                    }
                }
                Some(Err(error)) => judge(error, &self.spec.broker)?,
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

    /// Answers changes of the assignment, in their order.
    fn change(&mut self) -> Result<()> {
        let now = Instant::now();
        let lost =
            self.changes.iter().any(|change| matches!(change, Change::Revoked { lost: true, .. }));
        if let Some(revoking) = &self.revoking {
            let held = self.assignments.is_held(&revoking.assignments);
            if held && now < revoking.until && !lost {
                return Ok(());
            }
            if held && !lost {
                tracing::warn!(
                    group = self.spec.group,
                    "handlers take too long: events of partitions that go to another process come again there"
                );
            }
            if let Some(Revoking { partitions, assignments, .. }) = self.revoking.take() {
                self.give_up(&partitions, &assignments, lost)?;
            }
        }
        while let Some(change) = self.changes.pop_front() {
            match change {
                Change::Assigned(partitions) => {
                    if now < self.retry_at {
                        self.changes.push_front(Change::Assigned(partitions));
                        return Ok(());
                    }
                    if let Err(error) = self.assign(&partitions) {
                        tracing::debug!(%error, "the group does not say where it was, asking again");
                        self.retry_at = now + 5 * BUSY;
                        self.changes.push_front(Change::Assigned(partitions));
                        return Ok(());
                    }
                }
                // A commit that reaches the group after the next owner's would have calls run twice;
                // and what it makes ours is to be handed out.
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

    /// Whether a commit is under way. Hands out what the last one made ours.
    fn is_committing(&mut self) -> bool {
        if self.staged_answer.is_some() {
            self.hand_out_staged();
        }
        self.commits.is_under_way() || self.staged_answer.is_some()
    }

    fn assign(&mut self, partitions: &TopicPartitionList) -> Result<()> {
        let mut known: HashMap<(Name, i32), Committed> = HashMap::new();
        if partitions.count() > 0 {
            let found = self
                .consumer
                .committed_offsets(partitions.clone(), self.spec.timeout)
                .map_err(|error| from_kafka(error, &self.spec.broker, Sent::Harmless))?;
            for element in found.elements() {
                element
                    .error()
                    .map_err(|error| from_kafka(error, &self.spec.broker, Sent::Harmless))?;
                if let Offset::Offset(position) = element.offset() {
                    let committed = Committed::from_text(position, element.metadata());
                    known.insert((element.topic().into(), element.partition()), committed);
                }
            }
        }
        let mut list = TopicPartitionList::new();
        for element in partitions.elements() {
            let key = (Name::from(element.topic()), element.partition());
            let (committed, is_known) = match known.remove(&key) {
                Some(committed) => (committed, true),
                None => {
                    // A partition that was added since begins with its beginning.
                    let position = self.positions.get(&key).copied().unwrap_or(0);
                    (Committed { position, taken: position, done: Vec::new() }, false)
                }
            };
            let (topic, partition) = key;
            // Never refused: no position is negative.
            let _ =
                list.add_partition_offset(&topic, partition, Offset::Offset(committed.position));
            let assignment = self.next_assignment;
            self.next_assignment += 1;
            let tracker = OffsetTracker::new(committed, is_known);
            self.assignments
                .parts()
                .insert(assignment, Partition { topic: Name::clone(&topic), partition, tracker });
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
            tracing::debug!(group = self.spec.group, partitions = list.count(), "partitions came");
            self.join_until = Instant::now();
        }
        Ok(())
    }

    /// Takes nothing more of these. Gives their assignments.
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
        self.seen.retain(|(place, _)| !assignments.contains(&place.assignment));
        // Not committed, so the next owner reads them.
        self.staged.retain(|(place, _)| !assignments.contains(&place.assignment));
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
            let mut parts = self.assignments.parts();
            assignments.iter().for_each(|id| drop(parts.remove(id)));
        }
        tracing::debug!(
            group = self.spec.group,
            partitions = assignments.len(),
            lost,
            "partitions went"
        );
        membership::unassign(&self.consumer, partitions);
        Ok(())
    }

    /// Tells the group how far these are settled, and waits until it knows, for a while.
    fn commit_before_revoke(&mut self, assignments: &[u64], limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        // What is under way must not reach the group after this.
        self.await_commits(until)?;
        if self.commits.is_under_way() {
            tracing::warn!(
                group = self.spec.group,
                "Kafka does not answer while partitions go to another process; some events come again"
            );
            return Ok(());
        }
        let (asking, mut answer) = oneshot::channel();
        self.commits.commit_before_revoke(assignments, asking);
        self.await_commits(until)?;
        match answer.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, group = self.spec.group,
                "offsets could not be committed before their partitions went; some events come again"),
            Err(_) => tracing::warn!(
                group = self.spec.group,
                "offsets were not committed in time before their partitions went; some events come again"
            ),
        }
        Ok(())
    }

    fn await_commits(&mut self, until: Instant) -> Result<()> {
        while self.commits.is_under_way() && Instant::now() < until {
            self.serve()?;
            if self.commits.is_under_way() {
                park_timeout(BUSY);
            }
        }
        Ok(())
    }

    /// Takes what is there and asked for. Gives whether it was any.
    fn take(&mut self) -> Result<bool> {
        if self.claim > 0 {
            return Ok(Instant::now() >= self.retry_at && self.hand_out_staged());
        }
        if self.seen.is_empty() {
            for _ in 0..self.queues.len() {
                self.cursor = (self.cursor + 1) % self.queues.len();
                let queue = &self.queues[self.cursor];
                if let Some(seen) = poll(queue, &mut self.reading, &self.spec.broker)? {
                    self.seen.push_back(seen);
                    break;
                }
            }
        }
        if self.seen.is_empty() {
            return Ok(false);
        }
        let claim = self.handoff.claim();
        if claim == 0 {
            return Ok(false);
        }
        let mut taken: Vec<(RecordPosition, R::Item)> = Vec::with_capacity(claim.min(128));
        let mut failed = None;
        {
            let assignments = Arc::clone(&self.assignments);
            let mut parts = assignments.parts();
            let mut note = |(place, item): (RecordPosition, Option<R::Item>),
                            taken: &mut Vec<_>| {
                let Some(partition) = parts.get_mut(&place.assignment) else { return };
                if !partition.tracker.take(place.offset) {
                    return;
                }
                if R::COMMITS_FIRST || item.is_none() {
                    partition.tracker.settle(place.offset);
                }
                taken.extend(item.map(|item| (place, item)));
            };
            // What nobody wants costs no credit, but must not keep others waiting for ever either.
            let mut most = claim.saturating_mul(16).max(1024);
            while taken.len() < claim
                && let Some(seen) = self.seen.pop_front()
            {
                note(seen, &mut taken);
            }
            let count = self.queues.len();
            let mut idle = 0;
            'all: while idle < count {
                let queue = &self.queues[self.cursor % count];
                idle += 1;
                loop {
                    if taken.len() >= claim || most == 0 {
                        break 'all;
                    }
                    match poll(queue, &mut self.reading, &self.spec.broker) {
                        Ok(Some(seen)) => {
                            most -= 1;
                            note(seen, &mut taken);
                        }
                        Ok(None) => break,
                        Err(error) => {
                            failed = Some(error);
                            break 'all;
                        }
                    }
                }
                self.cursor = (self.cursor + 1) % count;
            }
        }
        if R::COMMITS_FIRST {
            self.staged = taken;
            self.claim = claim;
            self.hand_out_staged();
        } else {
            self.handoff.put(taken.into_iter().map(|(_, item)| item), claim);
        }
        failed.map_or(Ok(true), Err)
    }

    /// Hands out what was taken, once that is committed.
    fn hand_out_staged(&mut self) -> bool {
        let answer = self.staged_answer.get_or_insert_with(|| self.assignments.ask());
        let failed = match answer.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return false,
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(oneshot::error::TryRecvError::Closed) => Some("nobody has committed".to_owned()),
        };
        self.staged_answer = None;
        if let Some(error) = failed {
            tracing::debug!(error, "calls wait until their offset is committed");
            self.retry_at = Instant::now() + 5 * BUSY;
            return false;
        }
        let staged = std::mem::take(&mut self.staged);
        let claim = std::mem::take(&mut self.claim);
        self.handoff.put(staged.into_iter().map(|(_, item)| item), claim);
        true
    }

    fn tick(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.joined.is_some() && now >= self.join_until {
            let done = self.positions.is_empty()
                || start::is_established(&self.consumer, &self.spec, &self.positions)?;
            if done && let Some(joined) = self.joined.take() {
                // Nobody waits any more: then the handoff is closed, or will be.
                let _ = joined.send(Ok(()));
            }
        }
        if now >= self.commit_at {
            self.commit_at = now + COMMIT_INTERVAL;
            // What is staged is committed when it can be handed out, not before.
            self.commits.poll_commits(!R::COMMITS_FIRST || self.claim == 0);
        }
        self.release(now)
    }

    /// A member without credit keeps calls from those who have it, as a partition has one owner. So it
    /// leaves the group to them, and comes back when it can take calls again.
    fn release(&mut self, now: Instant) -> Result<()> {
        let Some(after) = self.spec.release_after else { return Ok(()) };
        if self.handoff.is_wanted() || self.joined.is_some() || self.claim > 0 {
            self.wanted_at = now;
            if self.released {
                self.released = false;
                self.subscribe()?;
            }
        } else if !self.released && now >= self.wanted_at + after && now >= self.ask_at {
            self.ask_at = now + after;
            if self.has_other_members() {
                tracing::debug!(
                    group = self.spec.group,
                    "all handlers are busy: others get the calls"
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
                tracing::debug!(%error, group = self.spec.group, "the group does not say who is in it");
                false
            }
        }
    }

    fn pause(&self) -> Duration {
        let busy = self.joined.is_some()
            || self.revoking.is_some()
            || !self.changes.is_empty()
            || self.claim > 0
            || self.commits.is_under_way();
        if busy { BUSY } else { IDLE }
    }

    /// Tells the group how far it came, and leaves.
    fn leave(mut self) {
        self.seen.clear();
        let until = Instant::now() + self.spec.timeout.min(FINAL_COMMIT_LIMIT);
        let all: Vec<u64> = self.assignments.parts().keys().copied().collect();
        // A member that has failed leaves all the same.
        if R::COMMITS_FIRST {
            let _ = self.await_commits(until);
            if self.staged_answer.is_some() {
                self.hand_out_staged();
            }
        } else {
            let _ = self.commit_before_revoke(&all, self.spec.timeout.min(FINAL_COMMIT_LIMIT));
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
                    membership::assign(&self.consumer, &TopicPartitionList::new())
                }
                Change::Revoked { partitions, .. } => {
                    membership::unassign(&self.consumer, &partitions)
                }
            }
        }
        self.assignments.close();
        self.commits.close(FINAL_COMMIT_LIMIT);
        // The last of it, unless a commit is under way: it leaves the group as it ends.
    }
}

/// Reads the next record of a partition.
fn poll<R: Reading>(
    queue: &Queue,
    reading: &mut R,
    broker: &str,
) -> Result<Option<(RecordPosition, Option<R::Item>)>> {
    match queue.queue.poll(Duration::ZERO) {
        Some(Ok(record)) => {
            let place = RecordPosition { assignment: queue.assignment, offset: record.offset() };
            let item = reading.read(&record, place);
            Ok(Some((place, item)))
        }
        Some(Err(error)) => judge(error, broker).map(|()| None),
        None => Ok(None),
    }
}

/// Whether an error ends the consumer. Most pass.
fn judge(error: KafkaError, broker: &str) -> Result<()> {
    let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_));
    if fatal || code(&error).is_some_and(is_refusal) {
        return Err(from_kafka(error, broker, Sent::Harmless));
    }
    tracing::debug!(%error, "consuming goes on");
    Ok(())
}
