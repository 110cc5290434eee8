//! Callbacks from librdkafka to a member: partitions assigned and revoked, and answers to commits.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};

use crate::context;

/// A rebalance, to be answered by the member's thread.
pub(crate) enum Change {
    /// The member owns these, and may read them.
    Assigned(TopicPartitionList),
    /// The member must give these up. If they are `lost`, other members may own them already.
    Revoked { partitions: TopicPartitionList, lost: bool },
}

/// The answer to a commit, and the offsets that were committed.
pub(crate) type Answer = (KafkaResult<()>, TopicPartitionList);

/// Queues rebalances for the member's thread, while librdkafka waits for its answer.
#[derive(Default)]
pub(crate) struct Membership {
    changes: Mutex<VecDeque<Change>>,
    answers: Mutex<VecDeque<Answer>>,
    leaving: AtomicBool,
}

impl Membership {
    pub(crate) fn next(&self) -> Option<Change> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(crate) fn add_answer(&self, answer: Answer) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push_back(answer);
    }

    /// Takes the answer to the oldest commit that was answered.
    pub(crate) fn answer(&self) -> Option<Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// From now on rebalances are answered at once: nothing is read, and everything given up.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    fn add(&self, change: Change) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push_back(change);
    }
}

/// Gives partitions up, in answer to a rebalance.
pub(crate) fn unassign(consumer: &BaseConsumer<Membership>, partitions: &TopicPartitionList) {
    let done = match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
        _ => consumer.unassign(),
    };
    if let Err(error) = done {
        tracing::debug!(%error, "partitions could not be given up");
    }
}

/// Reads partitions, in answer to a rebalance.
pub(crate) fn assign(consumer: &BaseConsumer<Membership>, partitions: &TopicPartitionList) {
    let done = match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(partitions),
        _ => consumer.assign(partitions),
    };
    if let Err(error) = done {
        tracing::warn!(%error, "partitions could not be assigned");
    }
}

impl ClientContext for Membership {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        context::log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        context::report(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        context::stats(statistics);
    }
}

impl ConsumerContext for Membership {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let leaving = self.leaving.load(Ordering::SeqCst);
        match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS if leaving => {
                assign(consumer, &TopicPartitionList::new());
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.add(Change::Assigned(partitions.clone()));
            }
            _ if leaving => unassign(consumer, partitions),
            _ => self.add(Change::Revoked {
                partitions: partitions.clone(),
                lost: consumer.assignment_lost(),
            }),
        }
    }
}
