//! Dead letters: records that could not be handled, in a topic of their group, with the reason.

use lightbus_core::{EventMessage, Name, Rejection};
use rdkafka::{Message, message::OwnedHeaders};

use super::record;
use crate::{
    header,
    produce::{Outgoing, Placed},
};

/// The most bytes of a reason that are kept.
const LONGEST_REASON: usize = 4096;

/// A record as it came, to be set aside because it cannot be read.
pub(super) struct Raw {
    pub(super) key: Option<Name>,
    pub(super) payload: Vec<u8>,
    pub(super) headers: Option<OwnedHeaders>,
    pub(super) origin: String,
}

impl Raw {
    pub(super) fn of<M: Message<Headers = rdkafka::message::BorrowedHeaders>>(record: &M) -> Self {
        let placed = Placed { partition: record.partition(), offset: record.offset() };
        Self {
            key: record.key().and_then(|key| std::str::from_utf8(key).ok()).map(Name::from),
            payload: record.payload().unwrap_or_default().to_vec(),
            headers: record.headers().map(|headers| headers.detach()),
            origin: record::native_id(record.topic(), placed).to_string(),
        }
    }

    /// The record that sets it aside.
    pub(super) fn outgoing(&self, topic: &Name, reason: &str) -> Outgoing {
        let headers = self.headers.clone().unwrap_or_default();
        Outgoing {
            topic: Name::clone(topic),
            partition: Some(0),
            key: self.key.clone(),
            payload: Some(self.payload.clone()),
            headers: Some(explain(headers, reason, 1, &self.origin)),
        }
    }
}

/// The record that sets an event aside.
pub(super) fn outgoing(topic: &Name, event: &EventMessage, why: &Rejection) -> Outgoing {
    let mut record = record::outgoing(topic, event);
    let headers = record.headers.take().unwrap_or_default();
    let origin = event.native_id.as_deref().unwrap_or_default();
    record.headers = Some(explain(headers, why.reason(), why.attempts(event.attempt), origin));
    record.partition = Some(0);
    record
}

fn explain(mut headers: OwnedHeaders, reason: &str, attempts: u32, origin: &str) -> OwnedHeaders {
    let mut reason = reason;
    if reason.len() > LONGEST_REASON {
        let end = (0..=LONGEST_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason = &reason[..end];
    }
    headers = header::add(headers, header::REASON, reason);
    headers = header::add(headers, header::ATTEMPTS, &attempts.to_string());
    header::add(headers, header::ORIGIN, origin)
}
