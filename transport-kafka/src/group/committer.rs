//! A thread that commits and waits for the answer.
//!
//! librdkafka waits without a limit while no broker can be reached; the member's own thread must not.

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

/// How often to look for an answer whose wake-up was missed.
const LOOK: Duration = Duration::from_millis(10);

/// Commits for one consumer.
pub(super) struct Committer {
    consumer: Arc<Consumer>,
    /// One request is being committed, and one more may wait: sent after the first was given up.
    requests: SyncSender<TopicPartitionList>,
    thread: JoinHandle<()>,
}

impl Committer {
    /// Starts the thread. It unparks the caller's thread at each answer.
    pub(super) fn start(consumer: &Arc<Consumer>) -> std::io::Result<Self> {
        let (requests, waiting) = sync_channel(1);
        let (owned, wakes) = (Arc::clone(consumer), thread::current());
        let thread = thread::Builder::new()
            .name("lightbus-commit".into())
            .spawn(move || run(&owned, &waiting, &wakes))?;
        Ok(Self { consumer: Arc::clone(consumer), requests, thread })
    }

    /// Sends a commit. The answer arrives in the consumer's context, [`Membership`].
    pub(super) fn begin(&self, list: TopicPartitionList) -> KafkaResult<()> {
        let busy = |_| KafkaError::ConsumerCommit(Code::OperationTimedOut);
        self.requests.try_send(list).map_err(busy)
    }

    /// Commits and waits for the answer, at most `limit`. No other commit may be in flight.
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

    /// Lets the thread end, and waits for it at most `limit`.
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
    // For `end`, which waits.
    wakes.unpark();
}

/// Returns the error of the first partition whose commit the group refused.
pub(super) fn refused(list: &TopicPartitionList) -> KafkaResult<()> {
    let refusal = list.elements().iter().find_map(|element| match element.error() {
        Err(KafkaError::OffsetFetch(code)) => Some(KafkaError::ConsumerCommit(code)),
        _ => None,
    });
    refusal.map_or(Ok(()), Err)
}
