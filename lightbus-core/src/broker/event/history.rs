//! Past events, page by page.

use std::{collections::VecDeque, sync::Arc};

use futures_core::stream::BoxStream;
use futures_util::stream;

use super::{
    super::{Broker, Channel, Received, shared::Shared, wire},
    channel,
    source::described,
};
use crate::{EventMessage, Name, Result, transport::HistorySpec};

/// How many events are asked for at once.
const PAGE: usize = 100;

struct Reader<B> {
    shared: Arc<Shared<B>>,
    spec: HistorySpec,
    channel: Channel,
    page: VecDeque<Received<()>>,
    /// The oldest message that was read.
    last: Option<Name>,
    end: bool,
}

/// Reads newest first, until the lower bound or the end.
pub(super) fn history<B: Broker>(
    shared: Arc<Shared<B>>,
    spec: HistorySpec,
    operation: String,
) -> BoxStream<'static, Result<EventMessage>> {
    let channel = channel(&spec.events.api);
    let reader = Reader { shared, spec, channel, page: VecDeque::new(), last: None, end: false };
    Box::pin(stream::unfold((reader, operation), async |(mut reader, operation)| {
        let next = reader.next().await.transpose()?;
        // An error is the last thing that is said.
        reader.end |= next.is_err();
        let next = next.map_err(|error| error.during(operation.clone()));
        Some((next, (reader, operation)))
    }))
}

impl<B: Broker> Reader<B> {
    async fn next(&mut self) -> Result<Option<EventMessage>> {
        loop {
            while let Some(received) = self.page.pop_front() {
                let HistorySpec { events, from, until } = &self.spec;
                let (Some(time), true) = (received.time, !self.end) else { continue };
                if from.is_some_and(|from| time < from) {
                    self.end = true;
                    return Ok(None);
                }
                if until.is_some_and(|until| time > until) {
                    continue;
                }
                match wire::decode_event(&received.payload) {
                    // One that was requeued is in the history already.
                    Ok((event, None)) if events.selects(&event.api, &event.event) => {
                        return Ok(Some(described(event, None, &received)));
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, id = &*received.id, "an event of the history cannot be read");
                    }
                }
            }
            if self.end {
                return Ok(None);
            }
            let read = self.shared.broker.history(&self.channel, self.last.as_deref(), PAGE);
            let page = self.shared.limit(read).await?;
            match page.last() {
                Some(oldest) => self.last = Some(Name::clone(&oldest.id)),
                None => self.end = true,
            }
            self.page = page.into();
        }
    }
}
