//! A thread that commits, and waits for each answer: librdkafka does so without a limit while no broker
//! is there, and nobody else is to wait with it.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle, Thread, park_timeout},
    time::{Duration, Instant},
};

use rdkafka::{
    TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
};

use super::membership::Membership;

type Consumer = BaseConsumer<Membership>;

/// How often to look for an answer that has not woken anybody.
const LOOK: Duration = Duration::from_millis(10);

/// Commits for one consumer.
pub(super) struct Committer {
    consumer: Arc<Consumer>,
    /// One is being committed, one may wait: that one if nobody waits for the first any more.
    requests: SyncSender<TopicPartitionList>,
    thread: JoinHandle<()>,
}

impl Committer {
    /// Wakes the thread that calls this when there is an answer.
    pub(super) fn start(consumer: &Arc<Consumer>) -> std::io::Result<Self> {
        let (requests, waiting) = sync_channel(1);
        let (owned, wakes) = (Arc::clone(consumer), thread::current());
        let thread = thread::Builder::new()
            .name("lightbus-commit".into())
            .spawn(move || run(&owned, &waiting, &wakes))?;
        Ok(Self { consumer: Arc::clone(consumer), requests, thread })
    }

    /// Begins to commit. The answer is found in the consumer's context.
    pub(super) fn begin(&self, list: TopicPartitionList) -> KafkaResult<()> {
        let busy = |_| KafkaError::ConsumerCommit(Code::OperationTimedOut);
        self.requests.try_send(list).map_err(busy)
    }

    /// Commits, and waits for the answer, no longer than this. Nothing else may be under way.
    pub(super) fn commit(&self, list: &TopicPartitionList, limit: Duration) -> KafkaResult<()> {
        self.begin(list.clone())?;
        let until = Instant::now() + limit;
        loop {
            if let Some((answer, list)) = self.consumer.client().context().answer() {
                return answer.and_then(|()| refused(&list));
            }
            if Instant::now() >= until {
                return Err(KafkaError::ConsumerCommit(Code::OperationTimedOut));
            }
            park_timeout(LOOK);
        }
    }

    /// Lets the thread end, and waits for that, no longer than this.
    pub(super) fn end(self, limit: Duration) {
        drop(self.requests);
        let until = Instant::now() + limit;
        while !self.thread.is_finished() && Instant::now() < until {
            park_timeout(LOOK);
        }
    }
}

fn run(consumer: &Consumer, waiting: &Receiver<TopicPartitionList>, wakes: &Thread) {
    while let Ok(list) = waiting.recv() {
        let answer = consumer.commit(&list, CommitMode::Sync);
        consumer.client().context().add_answer((answer, list));
        wakes.unpark();
    }
    // Who waits for the end finds it.
    wakes.unpark();
}

/// What the group says of single partitions.
pub(super) fn refused(list: &TopicPartitionList) -> KafkaResult<()> {
    let refusal = list.elements().iter().find_map(|element| match element.error() {
        Err(KafkaError::OffsetFetch(code)) => Some(KafkaError::ConsumerCommit(code)),
        _ => None,
    });
    refusal.map_or(Ok(()), Err)
}
