//! Reads a range of a partition, without being a member of a group.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use lightbus_core::{Error, ErrorKind, Result, time::after};
use rdkafka::{
    ClientContext, Message, Offset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    message::BorrowedMessage,
};

use crate::{
    context::{self, Refusals},
    error::{Sent, code, from_kafka, is_refusal, retry_transient},
};

/// The context of a consumer that is no member of a group.
pub(crate) struct ReaderContext(pub(crate) Arc<Refusals>);

impl ClientContext for ReaderContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.0.read(facility, text);
        context::log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&error, reason);
        context::report(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        context::stats(statistics);
    }
}

impl ConsumerContext for ReaderContext {}

/// Reads ranges of partitions.
pub(crate) struct Reader {
    pub(crate) consumer: BaseConsumer<ReaderContext>,
    pub(crate) timeout: Duration,
    pub(crate) broker: String,
}

impl Reader {
    /// Returns the first offset of a partition, and the one after the last. Blocks.
    pub(crate) fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64)> {
        retry_transient(self.timeout, || {
            self.consumer.fetch_watermarks(topic, partition, self.timeout)
        })
        .map_err(|error| self.error(error))
    }

    /// Returns the first offset whose record is not older than `time`; `None` if all are older. Blocks.
    pub(crate) fn not_older(
        &self,
        topic: &str,
        partition: i32,
        time: SystemTime,
    ) -> Result<Option<i64>> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(milliseconds(time)))
            .map_err(|error| self.error(error))?;
        let found = retry_transient(self.timeout, || {
            let found = self.consumer.offsets_for_times(list.clone(), self.timeout)?;
            check(&found)?;
            Ok(found)
        })
        .map_err(|error| self.error(error))?;
        for element in found.elements() {
            if let Offset::Offset(offset) = element.offset() {
                return Ok(Some(offset));
            }
        }
        Ok(None)
    }

    /// Calls `each` with the records from `from` to before `to`. Blocks.
    pub(crate) fn read(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        to: i64,
        mut each: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<()> {
        if from >= to {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(from))
            .and_then(|()| self.consumer.assign(&list))
            .map_err(|error| self.error(error))?;
        let read = self.read_assigned(to, &mut each);
        let ended = self.consumer.unassign().map_err(|error| self.error(error));
        read.and(ended)
    }

    fn read_assigned(&self, to: i64, each: &mut impl FnMut(&BorrowedMessage<'_>)) -> Result<()> {
        let mut until = after(Instant::now(), self.timeout);
        loop {
            match self.consumer.poll(until.saturating_duration_since(Instant::now())) {
                Some(Ok(record)) => {
                    until = after(Instant::now(), self.timeout);
                    if record.offset() < to {
                        each(&record);
                    }
                    if record.offset() + 1 >= to {
                        return Ok(());
                    }
                }
                // The last offsets are gone, or hold no records.
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if code(&error).is_some_and(is_refusal) => {
                    return Err(self.error(error));
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "the consumer reported an error and continues")
                }
                None if Instant::now() >= until => {
                    return Err(Error::new(
                        ErrorKind::Unavailable,
                        "Kafka did not send the records in time",
                    )
                    .with("broker", format_args!("kafka {}", self.broker)));
                }
                None => {}
            }
        }
    }

    fn error(&self, error: KafkaError) -> Error {
        from_kafka(error, &self.broker, Sent::Harmless)
    }
}

/// Returns the first error of a partition.
pub(crate) fn check(list: &TopicPartitionList) -> std::result::Result<(), KafkaError> {
    list.elements().iter().try_for_each(|element| element.error())
}

/// Returns a time in milliseconds since 1970, as Kafka has it.
pub(crate) fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Returns when the broker stored a record, or its sender created it, as the topic is set.
pub(crate) fn time_of<M: Message>(record: &M) -> SystemTime {
    let ms = record.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(UNIX_EPOCH)
}
