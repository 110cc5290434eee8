//! The history of events: all partitions read backwards, page by page, and merged by time.

use std::{sync::Arc, time::SystemTime};

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use lightbus_core::{
    EventMessage, Name, Result,
    time::after,
    transport::{EventSelector, HistorySpec},
};
use rdkafka::Message as _;

use super::codec::{self, Read};
use crate::{
    client::{Client, blocking},
    reader::{Reader, time_of},
};

/// How many offsets of a partition a page has.
const PAGE: i64 = 500;

/// Returns past events, newest first.
pub(super) fn history(
    client: Arc<Client>,
    group: String,
    topic: Name,
    spec: HistorySpec,
) -> BoxStream<'static, Result<EventMessage>> {
    let began = async move {
        let Some(count) = client.existing(&topic).await? else { return Ok(None) };
        blocking(move || Past::new(client.reader(&group)?, topic, count, spec).map(Some)).await?
    };
    stream::once(began)
        .flat_map(|past| match past {
            Ok(None) => stream::empty().boxed(),
            Ok(Some(past)) => stream::unfold(Some(past), |past| async move {
                let mut past = past?;
                // The whole state moves to the blocking thread and back.
                let page = blocking(move || {
                    let page = past.page();
                    (page, past)
                })
                .await;
                match page {
                    Ok((Ok(Some(events)), past)) => {
                        Some((stream::iter(events.into_iter().map(Ok)).boxed(), Some(past)))
                    }
                    Ok((Ok(None), past)) => {
                        crate::client::discard(past);
                        None
                    }
                    Ok((Err(error), past)) => {
                        crate::client::discard(past);
                        Some((stream::iter([Err(error)]).boxed(), None))
                    }
                    Err(error) => Some((stream::iter([Err(error)]).boxed(), None)),
                }
            })
            .flatten()
            .boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        })
        .boxed()
}

/// What is left to read of a topic.
struct Past {
    /// Dropped in a thread of its own.
    reader: Option<Reader>,
    topic: Name,
    selectors: [EventSelector; 1],
    from: Option<SystemTime>,
    until: Option<SystemTime>,
    parts: Vec<PartitionPages>,
}

impl Drop for Past {
    fn drop(&mut self) {
        crate::client::discard(self.reader.take());
    }
}

/// What is left to read of a partition: offsets from `low` to before `high`.
struct PartitionPages {
    partition: i32,
    low: i64,
    high: i64,
    /// Read and not returned yet, newest last: other partitions may have newer events.
    events: Vec<Event>,
}

struct Event {
    /// When the broker stored it, when it was sent, and its offset.
    order: (SystemTime, u64, i64),
    message: EventMessage,
}

impl Past {
    fn new(reader: Reader, topic: Name, count: i32, spec: HistorySpec) -> Result<Self> {
        let mut parts = Vec::new();
        for partition in 0..count {
            let (mut low, mut high) = reader.bounds(&topic, partition)?;
            if let Some(from) = spec.from {
                low = reader.not_older(&topic, partition, from)?.unwrap_or(high).max(low);
            }
            if let Some(until) = spec.until {
                let end = after(until, std::time::Duration::from_millis(1));
                high = reader.not_older(&topic, partition, end)?.unwrap_or(high).min(high);
            }
            parts.push(PartitionPages { partition, low, high, events: Vec::new() });
        }
        let (selectors, from, until) = ([spec.events], spec.from, spec.until);
        Ok(Self { reader: Some(reader), topic, selectors, from, until, parts })
    }

    /// Returns the next page, newest first; `None` at the end. Blocks.
    fn page(&mut self) -> Result<Option<Vec<EventMessage>>> {
        let mut page = Vec::new();
        loop {
            let Some(reader) = &self.reader else { return Ok(None) };
            for part in &mut self.parts {
                while part.events.is_empty() && part.low < part.high {
                    part.read(reader, &self.topic, &self.selectors, (self.from, self.until))?;
                }
            }
            // The newest of all partitions, as long as each that is not at its end has an event.
            let newest = self
                .parts
                .iter_mut()
                .filter(|part| !part.events.is_empty())
                .max_by_key(|part| part.events.last().map(|event| event.order));
            let Some(part) = newest else {
                return Ok((!page.is_empty()).then_some(page));
            };
            page.extend(part.events.pop().map(|event| event.message));
            if part.events.is_empty() && part.low < part.high {
                return Ok(Some(page));
            }
        }
    }
}

impl PartitionPages {
    /// Reads the last page of what is left.
    fn read(
        &mut self,
        reader: &Reader,
        topic: &str,
        selectors: &[EventSelector],
        (from, until): (Option<SystemTime>, Option<SystemTime>),
    ) -> Result<()> {
        let start = self.low.max(self.high - PAGE);
        let mut events = Vec::new();
        reader.read(topic, self.partition, start, self.high, |found| {
            let time = time_of(found);
            // Senders' times need not grow with the offsets.
            if from.is_some_and(|from| time < truncated(from))
                || until.is_some_and(|until| time > until)
            {
                return;
            }
            match codec::read(found, selectors, None) {
                Read::Event(message) => {
                    let order = (time, codec::sent_at(found), found.offset());
                    events.push(Event { order, message: *message });
                }
                Read::Other => {}
                Read::Malformed(reason) => {
                    tracing::warn!(reason, topic, "a past event cannot be read");
                }
            }
        })?;
        self.high = start;
        self.events = events;
        Ok(())
    }
}

/// Truncates a time to its millisecond, because records have no finer time.
fn truncated(time: SystemTime) -> SystemTime {
    let ms = crate::reader::milliseconds(time);
    let since = std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_truncated_to_its_millisecond() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567);
        assert_eq!(truncated(moment), SystemTime::UNIX_EPOCH + Duration::from_millis(1234));
    }
}
