//! The history of events: a stream read backwards, page by page.

use std::{collections::VecDeque, sync::Arc};

use futures_core::stream::BoxStream;
use futures_util::{StreamExt, stream};
use lightbus_core::{
    EventMessage, Result,
    transport::{EventSelector, HistorySpec},
};
use redis::Value;

use super::{
    codec::{self, Read},
    entry::{RawEntry, milliseconds},
};
use crate::{
    client::Client,
    error::{Sent, odd_answer},
    value,
};

/// How many entries a page has.
const PAGE: usize = 100;
struct History {
    client: Arc<Client>,
    stream: String,
    events: EventSelector,
    /// The oldest entry to read, for `XREVRANGE`.
    oldest: String,
    /// Where the next page begins; `None` after the last page.
    newest: Option<String>,
    page: VecDeque<EventMessage>,
}

/// Returns the events of a stream, newest first, read page by page on demand.
pub(super) fn history(
    client: Arc<Client>,
    stream: String,
    spec: HistorySpec,
) -> BoxStream<'static, Result<EventMessage>> {
    let history = History {
        client,
        stream,
        events: spec.events,
        oldest: spec.from.map_or_else(|| "-".into(), |from| milliseconds(from).to_string()),
        newest: Some(
            spec.until.map_or_else(|| "+".into(), |until| milliseconds(until).to_string()),
        ),
        page: VecDeque::new(),
    };
    stream::unfold(Some(history), |history| async {
        let mut history = history?;
        match history.next().await {
            Ok(Some(event)) => Some((Ok(event), Some(history))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

impl History {
    async fn next(&mut self) -> Result<Option<EventMessage>> {
        loop {
            if let Some(event) = self.page.pop_front() {
                return Ok(Some(event));
            }
            let Some(newest) = self.newest.take() else { return Ok(None) };
            let mut range = redis::cmd("XREVRANGE");
            range.arg(&self.stream).arg(newest).arg(&self.oldest).arg("COUNT").arg(PAGE);
            let answer = self.client.command(&range, Sent::Harmless).await?;
            let entries =
                value::items(answer).ok_or_else(|| odd_answer("XREVRANGE", &Value::Nil))?;
            let full = entries.len() == PAGE;
            let mut last = None;
            for raw in entries.into_iter().filter_map(RawEntry::new) {
                last = Some(raw.id);
                let Some(fields) = raw.fields else { continue };
                let select = |api: &str, event: &str| {
                    codec::wanted(std::slice::from_ref(&self.events), api, event)
                };
                match codec::read(raw.id, fields, 0, select) {
                    Read::Event(event) => self.page.push_back(*event),
                    Read::Other => {}
                    Read::Malformed(reason, _) => {
                        tracing::debug!(stream = self.stream, id = %raw.id, reason, "a past event cannot be read");
                    }
                }
            }
            self.newest = last.filter(|_| full).map(|last| format!("({last}"));
        }
    }
}
