//! Dead letters as records: the record as it was, with the reason in headers.

use lightbus_core::{
    EventMessage, Name, Rejection,
    transport::{DeadLetter, GroupSpec},
};
use rdkafka::{Message, message::OwnedHeaders};

use crate::{
    event::codec,
    header::{self, Found},
    producer::{Outgoing, Placed},
    reader::time_of,
};

/// The most bytes of a reason that are kept.
const LONGEST_REASON: usize = 4096;

/// A record that cannot be read, to be dead-lettered as it is.
pub(in crate::event) struct Raw {
    pub(in crate::event) key: Option<Name>,
    pub(in crate::event) payload: Vec<u8>,
    pub(in crate::event) headers: Option<OwnedHeaders>,
    pub(in crate::event) origin: String,
}

impl Raw {
    pub(in crate::event) fn of<M: Message<Headers = rdkafka::message::BorrowedHeaders>>(
        record: &M,
    ) -> Self {
        let placed = Placed { partition: record.partition(), offset: record.offset() };
        Self {
            key: record.key().and_then(|key| std::str::from_utf8(key).ok()).map(Name::from),
            payload: record.payload().unwrap_or_default().to_vec(),
            headers: record.headers().map(|headers| headers.detach()),
            origin: codec::native_id(record.topic(), placed).to_string(),
        }
    }

    /// Encodes its dead letter.
    pub(in crate::event) fn outgoing(&self, topic: &Name, reason: &str) -> Outgoing {
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

/// Encodes the dead letter of an event.
pub(in crate::event) fn outgoing(topic: &Name, event: &EventMessage, why: &Rejection) -> Outgoing {
    let mut record = codec::outgoing(topic, event);
    let headers = record.headers.take().unwrap_or_default();
    let origin = event.native_id.as_deref().unwrap_or_default();
    record.headers = Some(explain(headers, why.reason(), why.attempts(event.attempt), origin));
    record.partition = Some(0);
    record
}

pub(super) fn explain(
    mut headers: OwnedHeaders,
    reason: &str,
    attempts: u32,
    origin: &str,
) -> OwnedHeaders {
    let mut reason = reason;
    if reason.len() > LONGEST_REASON {
        let end = (0..=LONGEST_REASON).rev().find(|end| reason.is_char_boundary(*end)).unwrap_or(0);
        reason = &reason[..end];
    }
    headers = header::add(headers, header::REASON, reason);
    headers = header::add(headers, header::ATTEMPTS, &attempts.to_string());
    header::add(headers, header::ORIGIN, origin)
}

pub(super) const OWN: [&str; 4] =
    [header::REASON, header::ATTEMPTS, header::ORIGIN, header::REMOVED];

pub(super) fn placed<M: Message>(record: &M) -> Placed {
    Placed { partition: record.partition(), offset: record.offset() }
}

/// Splits a native id into topic, partition and offset.
pub(super) fn parts(id: &str) -> Option<(&str, i32, i64)> {
    let mut parts = id.rsplitn(3, '/');
    let (offset, partition) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((parts.next()?, partition, offset))
}

pub(super) fn read<M: Message>(record: &M, group: &GroupSpec) -> DeadLetter {
    let found = Found::read(record, OWN);
    let mut event = codec::unreadable(record);
    event.headers = found.others.clone();
    event.native_id = found.get(header::ORIGIN).map(Name::from);
    let attempts = found.get(header::ATTEMPTS).and_then(|text| text.parse().ok()).unwrap_or(0);
    event.attempt = attempts;
    DeadLetter {
        id: codec::native_id(record.topic(), placed(record)),
        event,
        group: group.clone(),
        reason: found.get(header::REASON).unwrap_or_default().to_owned(),
        attempts,
        time: time_of(record),
    }
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn places_are_read() {
        assert_eq!(parts("shop.events/3/17"), Some(("shop.events", 3, 17)));
        assert!(["", "shop.events", "shop/1", "shop/x/1"].iter().all(|id| parts(id).is_none()));
    }
}
