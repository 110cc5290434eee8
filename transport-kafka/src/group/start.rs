//! Where a new group begins: positions are committed before it has members.

use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use lightbus_core::{Name, Result, transport::Start};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use super::{MemberSpec, committer::Committer, membership::Membership};
use crate::{
    error::{Sent, from_kafka, retry_transient},
    reader::check,
    topic,
};

/// Positions by topic and partition.
pub(super) type Positions = HashMap<(Name, i32), i64>;

/// Commits a position in each partition in which the group has none. Returns the positions that could
/// not be committed, because the group has members already and only they may commit. Blocks.
pub(super) fn establish(
    consumer: &BaseConsumer<Membership>,
    committer: &Committer,
    spec: &MemberSpec,
) -> Result<Positions> {
    let mut all = TopicPartitionList::new();
    for name in &spec.topics {
        let count = topic::await_partitions(consumer.client(), name, spec.timeout, &spec.broker)?;
        for partition in 0..count {
            all.add_partition(name, partition);
        }
    }
    let unknown = without_position(consumer, spec, all)?;
    if unknown.count() == 0 {
        return Ok(Positions::new());
    }
    let positions = find(consumer, &unknown, spec.start, spec.timeout)
        .map_err(|error| from_kafka(error, &spec.broker, Sent::Harmless))?;
    let mut list = TopicPartitionList::new();
    for ((topic, partition), position) in &positions {
        // Never refused: no other topics than those just asked about.
        let _ = list.add_partition_offset(topic, *partition, Offset::Offset(*position));
    }
    match retry_transient(spec.timeout, || committer.commit(&list, spec.timeout)) {
        Ok(()) => Ok(Positions::new()),
        // It has members, and only they may commit.
        Err(KafkaError::ConsumerCommit(
            Code::UnknownMemberId | Code::IllegalGeneration | Code::RebalanceInProgress,
        )) => Ok(positions),
        Err(error) => Err(from_kafka(error, &spec.broker, Sent::Harmless)),
    }
}

/// Whether the group has committed a position in each of these by now. Blocks.
pub(super) fn is_established(
    consumer: &BaseConsumer<Membership>,
    spec: &MemberSpec,
    positions: &Positions,
) -> Result<bool> {
    let mut all = TopicPartitionList::new();
    for (topic, partition) in positions.keys() {
        all.add_partition(topic, *partition);
    }
    Ok(without_position(consumer, spec, all)?.count() == 0)
}

fn without_position(
    consumer: &BaseConsumer<Membership>,
    spec: &MemberSpec,
    all: TopicPartitionList,
) -> Result<TopicPartitionList> {
    let found = retry_transient(spec.timeout, || {
        let found = consumer.committed_offsets(all.clone(), spec.timeout)?;
        check(&found)?;
        Ok(found)
    })
    .map_err(|error| from_kafka(error, &spec.broker, Sent::Harmless))?;
    let mut unknown = TopicPartitionList::new();
    for element in found.elements() {
        if !matches!(element.offset(), Offset::Offset(_)) {
            unknown.add_partition(element.topic(), element.partition());
        }
    }
    Ok(unknown)
}

/// Finds where to start in each of these partitions. Blocks.
fn find(
    consumer: &BaseConsumer<Membership>,
    of: &TopicPartitionList,
    start: Start,
    timeout: Duration,
) -> std::result::Result<Positions, KafkaError> {
    let ask = |what: Offset| -> std::result::Result<Vec<(Name, i32, Offset)>, KafkaError> {
        let mut list = of.clone();
        list.set_all_offsets(what)?;
        let found = retry_transient(timeout, || {
            let found = consumer.offsets_for_times(list.clone(), timeout)?;
            check(&found)?;
            Ok(found)
        })?;
        let mut all = Vec::with_capacity(found.count());
        for element in found.elements() {
            all.push((Name::from(element.topic()), element.partition(), element.offset()));
        }
        Ok(all)
    };
    // Kafka finds the ends by time too: -1 is the end, -2 the beginning.
    let ends = ask(Offset::End)?;
    let found = match start {
        Start::New => ends.clone(),
        Start::Earliest => ask(Offset::Beginning)?,
        Start::Since(time) => {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
            ask(Offset::Offset(i64::try_from(since).unwrap_or(i64::MAX)))?
        }
    };
    let mut positions = Positions::new();
    for ((topic, partition, position), (.., end)) in found.into_iter().zip(ends) {
        // The end, if no record is new enough.
        let position = match (position, end) {
            (Offset::Offset(position), _) | (_, Offset::Offset(position)) => position,
            _ => 0,
        };
        positions.insert((topic, partition), position);
    }
    Ok(positions)
}
