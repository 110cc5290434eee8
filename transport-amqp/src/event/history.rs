//! The history of events: the stream of an API, read backwards, page by page.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use lightbus_core::{EventMessage, Result, transport::HistorySpec};

use super::codec::{Read, wanted};
use crate::{
    EventConfig,
    client::Client,
    header,
    publisher::Publisher,
    stream::{Entry, Reader, publish_mark},
    topology::{self, history_of},
};

/// How many entries a page has.
const PAGE: u64 = 200;
/// How far the clocks of two senders may differ. An old event does not end the search before this: newer
/// ones may precede it.
const DISORDER: Duration = Duration::from_secs(600);

/// Marks the end of a stream, and returns the offset of the mark; `None` if the stream does not exist.
pub(super) async fn mark(
    client: &Client,
    publisher: &Publisher,
    stream: &str,
) -> Result<Option<u64>> {
    let out = publisher.channel().await?;
    if topology::waiting(&out.link, stream).await?.is_none() {
        return Ok(None);
    }
    let name = publish_mark(publisher, &out, stream).await?;
    let mut reader = Reader::open_near_end(client, stream).await?;
    loop {
        let entry = reader.next().await?;
        if entry.mark() == Some(&name) {
            return Ok(Some(entry.offset));
        }
    }
}

struct History {
    client: Arc<Client>,
    stream: String,
    spec: HistorySpec,
    /// The offset before which the next page ends; 0 if nothing is left.
    end: u64,
    page: VecDeque<EventMessage>,
}

/// Returns the events of an API, newest first, read page by page on demand.
pub(super) async fn history(
    client: &Arc<Client>,
    publisher: &Publisher,
    config: &EventConfig,
    spec: HistorySpec,
) -> Result<BoxStream<'static, Result<EventMessage>>> {
    let stream_name = history_of(config, &spec.events.api);
    let end = mark(client, publisher, &stream_name).await?.unwrap_or(0);
    let history = History {
        client: Arc::clone(client),
        stream: stream_name,
        spec,
        end,
        page: VecDeque::new(),
    };
    Ok(stream::unfold(Some(history), |history| async {
        let mut history = history?;
        match history.next().await {
            Ok(Some(event)) => Some((Ok(event), Some(history))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed())
}

impl History {
    async fn next(&mut self) -> Result<Option<EventMessage>> {
        loop {
            if let Some(event) = self.page.pop_back() {
                return Ok(Some(event));
            }
            if self.end == 0 {
                return Ok(None);
            }
            self.read_page().await?;
        }
    }

    /// Reads the page before the last one.
    async fn read_page(&mut self) -> Result<()> {
        let begin = self.end.saturating_sub(PAGE);
        let mut reader = Reader::open(&self.client, &self.stream, begin).await?;
        let mut first = None;
        let mut newest = None;
        loop {
            let entry = reader.next().await?;
            first.get_or_insert(entry.offset);
            if entry.offset >= self.end {
                break;
            }
            let last = entry.offset + 1 == self.end;
            self.collect(&entry, &mut newest);
            if last {
                break;
            }
        }
        // The stream may have dropped entries meanwhile.
        let is_first = begin == 0 || first.is_none_or(|first| first > begin);
        let latest = newest.and_then(|newest: SystemTime| newest.checked_add(DISORDER));
        let long_before =
            self.spec.from.is_some_and(|from| latest.is_some_and(|latest| latest < from));
        self.end = if is_first || long_before { 0 } else { begin };
        Ok(())
    }

    fn collect(&mut self, entry: &Entry, newest: &mut Option<SystemTime>) {
        if entry.mark().is_some() {
            return;
        }
        let events = std::slice::from_ref(&self.spec.events);
        match entry.raw.read(0, |api, event| wanted(events, api, event)) {
            Read::Event(event) => {
                *newest = event.time.max(*newest);
                // In milliseconds, because events have no finer time.
                let time = event.time.map_or(0, header::epoch_ms);
                let late = self.spec.from.is_none_or(|from| time >= header::epoch_ms(from));
                let early = self.spec.until.is_none_or(|until| time <= header::epoch_ms(until));
                if late && early {
                    self.page.push_back(*event);
                }
            }
            Read::Other => {}
            Read::Malformed(reason) => {
                tracing::debug!(
                    stream = self.stream,
                    offset = entry.offset,
                    reason,
                    "a past event cannot be read"
                );
            }
        }
    }
}
