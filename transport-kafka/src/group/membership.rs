//! What a member of a group is told by librdkafka: which partitions it gets and gives up.

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

/// A change of a member's partitions, to be answered by its thread.
pub(crate) enum Change {
    /// These are to be read.
    Assigned(TopicPartitionList),
    /// These are to be given up. Lost, others may have them already.
    Revoked { partitions: TopicPartitionList, lost: bool },
}

/// What became of a commit, and the offsets that it was to tell.
pub(crate) type Answer = (KafkaResult<()>, TopicPartitionList);

/// Keeps changes until the member's thread comes to them: librdkafka waits for the answer.
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

    /// The answer to the earliest commit whose answer nobody has taken.
    pub(crate) fn answer(&self) -> Option<Answer> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// From now on everything is given up at once.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    fn add(&self, change: Change) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push_back(change);
    }
}

/// Gives partitions up.
pub(crate) fn unassign(consumer: &BaseConsumer<Membership>, partitions: &TopicPartitionList) {
    let done = match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(partitions),
        _ => consumer.unassign(),
    };
    if let Err(error) = done {
        tracing::debug!(%error, "giving partitions up");
    }
}

/// Begins to read partitions.
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
