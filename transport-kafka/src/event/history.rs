//! Looking back: the history of events.

use std::{sync::Arc, time::SystemTime};

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use lightbus_core::{
    EventMessage, Name, Result,
    transport::{EventSelector, HistorySpec},
};
use rdkafka::Message as _;

use super::codec::{self, Read};
use crate::{
    client::{Client, blocking},
    reader::{Reader, time_of},
};

/// How many offsets of a partition are read at once, from the end.
const PAGE: i64 = 500;

/// Past events, newest first.
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
                // The whole goes to the thread that reads and comes back.
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

/// What is still to be read of a topic.
struct Past {
    /// Ends where it keeps nobody waiting.
    reader: Option<Reader>,
    topic: Name,
    selectors: [EventSelector; 1],
    from: Option<SystemTime>,
    until: Option<SystemTime>,
    parts: Vec<Part>,
}

impl Drop for Past {
    fn drop(&mut self) {
        crate::client::discard(self.reader.take());
    }
}

/// What is still to be read of a partition: offsets from `low` to `high`.
struct Part {
    partition: i32,
    low: i64,
    high: i64,
    /// Read, newest last, and not given yet: others may be newer.
    events: Vec<Event>,
}

struct Event {
    /// When the broker took it, when its sender sent it, and its offset.
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
                let after = until + std::time::Duration::from_millis(1);
                high = reader.not_older(&topic, partition, after)?.unwrap_or(high).min(high);
            }
            parts.push(Part { partition, low, high, events: Vec::new() });
        }
        let (selectors, from, until) = ([spec.events], spec.from, spec.until);
        Ok(Self { reader: Some(reader), topic, selectors, from, until, parts })
    }

    /// The next ones, newest first; `None` at the end. Blocks.
    fn page(&mut self) -> Result<Option<Vec<EventMessage>>> {
        let mut page = Vec::new();
        loop {
            let Some(reader) = &self.reader else { return Ok(None) };
            for part in &mut self.parts {
                while part.events.is_empty() && part.low < part.high {
                    part.read(reader, &self.topic, &self.selectors, (self.from, self.until))?;
                }
            }
            // The newest of the last ones, while each partition that is not at its end shows one.
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

impl Part {
    /// Reads the last of what is left.
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
            // Times of senders need not grow with the offsets.
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
                    tracing::warn!(reason, topic, "an event of the past cannot be read");
                }
            }
        })?;
        self.high = start;
        self.events = events;
        Ok(())
    }
}

/// The millisecond in which a moment is: records know no finer time.
fn truncated(time: SystemTime) -> SystemTime {
    let ms = crate::reader::milliseconds(time);
    SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_cut_to_its_millisecond() {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_micros(1_234_567);
        assert_eq!(truncated(moment), SystemTime::UNIX_EPOCH + Duration::from_millis(1234));
    }
}
