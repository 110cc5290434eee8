//! How far a group is behind: its offsets, compared to the ends of its topics.

use std::{collections::HashMap, sync::Arc};

use lightbus_core::{Name, Result, transport::Lag};
use rdkafka::{Offset, TopicPartitionList, consumer::Consumer as _};

use crate::{
    client::{Client, blocking},
    error::{Sent, from_kafka, retry_transient},
    group::{Committed, TopicPartition},
    reader::{Reader, check},
};

/// Returns how far a group is behind in these topics.
pub(crate) async fn lag(client: &Arc<Client>, topics: &[Name], group: String) -> Result<Lag> {
    let mut partitions = Vec::new();
    for topic in topics {
        let count = client.existing(topic).await?.unwrap_or(0);
        partitions.extend((0..count).map(|partition| (Name::clone(topic), partition)));
    }
    lag_in(client, partitions, group).await
}

/// Returns how far a group is behind in these partitions.
pub(crate) async fn lag_in(
    client: &Arc<Client>,
    partitions: Vec<TopicPartition>,
    group: String,
) -> Result<Lag> {
    if partitions.is_empty() {
        return Ok(Lag::default());
    }
    let client = Arc::clone(client);
    blocking(move || {
        let reader = client.reader(&group)?;
        Ok(behind(&reader, &partitions)?.unwrap_or_default())
    })
    .await?
}

/// Returns how far a group is behind; `None` if it has no offsets in these partitions. Blocks.
pub(crate) fn behind(reader: &Reader, partitions: &[TopicPartition]) -> Result<Option<Lag>> {
    let error = |error| from_kafka(error, &reader.broker, Sent::Harmless);
    let mut all = TopicPartitionList::new();
    for (topic, partition) in partitions {
        all.add_partition(topic, *partition);
    }
    let mut times = all.clone();
    // Kafka finds the end by time too.
    times.set_all_offsets(Offset::End).map_err(error)?;
    let committed = retry_transient(reader.timeout, || {
        let committed = reader.consumer.committed_offsets(all.clone(), reader.timeout)?;
        check(&committed)?;
        Ok(committed)
    })
    .map_err(error)?;
    let ends = retry_transient(reader.timeout, || {
        let ends = reader.consumer.offsets_for_times(times.clone(), reader.timeout)?;
        check(&ends)?;
        Ok(ends)
    })
    .map_err(error)?;
    let ends: HashMap<(String, i32), i64> = ends
        .elements()
        .iter()
        .filter_map(|element| match element.offset() {
            Offset::Offset(end) => Some(((element.topic().to_owned(), element.partition()), end)),
            _ => None,
        })
        .collect();
    let mut lag = None;
    for element in committed.elements() {
        let Offset::Offset(position) = element.offset() else { continue };
        let read = Committed::from_text(position, element.metadata());
        let end = ends.get(&(element.topic().to_owned(), element.partition())).copied();
        let end = end.unwrap_or(position);
        let lag: &mut Lag = lag.get_or_insert_default();
        lag.pending += read.pending();
        lag.waiting += u64::try_from(end - read.taken).unwrap_or(0);
    }
    Ok(lag)
}
