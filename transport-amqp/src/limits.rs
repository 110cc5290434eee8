//! How large a message may be. This is checked before it is sent: RabbitMQ answers a message that is too
//! large by closing the channel or the connection, and with it fails every other message in flight there.
//!
//! Two limits count. The properties and headers of a message travel in one frame, whose size both ends
//! have agreed on; a thirty-second of it is left to the headers that are added on the way, by the broker
//! and for dead letters. The body may take any number of frames, but at most `max_message_size` bytes,
//! which RabbitMQ does not tell its clients: it names the limit when it refuses the first body, and the
//! limit is known from then on, as long as the connection lives. Until then no small message may suffer
//! for a large one, so these are sent on a channel of their own (see [`LARGE`]).

use std::sync::atomic::{AtomicUsize, Ordering};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use lightbus_core::{Error, ErrorKind, Result, Retry};

/// Bodies of more bytes are sent on a channel of their own, and always confirmed.
pub(crate) const LARGE: usize = 32 << 10;

/// A header frame without properties.
const EMPTY_FRAME: usize = 22;

/// The limits of a connection.
#[derive(Debug)]
pub(crate) struct Limits {
    header_frame: usize,
    /// `usize::MAX` until it is known.
    body: AtomicUsize,
}

impl Limits {
    /// Returns the limits of a connection whose frames have at most so many bytes.
    pub(crate) fn of_frames(most: u32) -> Self {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Self { header_frame: most - most / 32, body: AtomicUsize::new(usize::MAX) }
    }

    /// Refuses a message that the broker would refuse.
    pub(crate) fn check(&self, properties: &BasicProperties, body: usize) -> Result<()> {
        let size = EMPTY_FRAME + size_of_properties(properties);
        if size > self.header_frame {
            return Err(Error::new(
                ErrorKind::TooLarge,
                "the headers are larger than a frame of RabbitMQ may be",
            )
            .with("bytes", size)
            .with("limit", self.header_frame)
            .hint("Send long values as arguments rather than in headers; or raise RabbitMQ's `frame_max`"));
        }
        let most = self.body.load(Ordering::Relaxed);
        if body > most { Err(body_too_large(body, most)) } else { Ok(()) }
    }

    /// Returns the error of a message with so many bytes that was in flight on a channel when the broker
    /// closed it for the size of one of its messages, and remembers the limit.
    pub(crate) fn refused(&self, body: usize, refusal: Oversized) -> Error {
        self.body.fetch_min(refusal.limit, Ordering::Relaxed);
        if body > refusal.limit {
            return body_too_large(body, refusal.limit);
        }
        Error::new(
            ErrorKind::Unavailable,
            "RabbitMQ closed the channel because of another message, which was too large",
        )
        .retry(Retry::MayDuplicate)
    }
}

fn body_too_large(bytes: usize, limit: usize) -> Error {
    Error::new(ErrorKind::TooLarge, "the message is larger than RabbitMQ's `max_message_size`")
        .with("bytes", bytes)
        .with("limit", limit)
        .hint("Send less, or send a reference; or raise `max_message_size` in RabbitMQ's configuration")
}

/// What the broker says when it refuses a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Oversized {
    limit: usize,
}

impl Oversized {
    /// Reads the broker's refusal: `message size 200000 is larger than configured max size 65536`.
    pub(crate) fn read(text: &str) -> Option<Self> {
        let numbers = text.split(|char: char| !char.is_ascii_digit());
        let mut numbers = numbers.filter_map(|number| number.parse().ok());
        let (_size, limit): (usize, _) = (numbers.next()?, numbers.next()?);
        text.contains("larger than").then_some(Self { limit })
    }
}

/// Returns how many bytes properties take in a frame.
fn size_of_properties(properties: &BasicProperties) -> usize {
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let texts = texts.into_iter().flatten().map(size_of_short).sum::<usize>();
    let bytes = usize::from(properties.delivery_mode().is_some())
        + usize::from(properties.priority().is_some())
        + if properties.timestamp().is_some() { 8 } else { 0 };
    texts + bytes + properties.headers().as_ref().map_or(0, size_of_table)
}

fn size_of_short(text: &ShortString) -> usize {
    1 + text.as_str().len()
}

fn size_of_table(table: &FieldTable) -> usize {
    let entries = table.inner().iter();
    4 + entries.map(|(name, value)| size_of_short(name) + size_of(value)).sum::<usize>()
}

/// Returns how many bytes a value takes with its type.
fn size_of(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Timestamp(_) | AMQPValue::Double(_) => 8,
        AMQPValue::ShortString(text) => size_of_short(text),
        AMQPValue::LongString(text) => 4 + text.as_bytes().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(values) => 4 + values.as_slice().iter().map(size_of).sum::<usize>(),
        AMQPValue::FieldTable(table) => size_of_table(table),
    }
}

#[cfg(test)]
mod tests {
    use lapin::{protocol::basic::gen_properties, types::FieldArray};

    use super::*;

    #[test]
    fn properties_are_measured_as_they_are_encoded() {
        let mut inner = FieldTable::default();
        inner.insert("time".into(), AMQPValue::Timestamp(7));
        let mut headers = FieldTable::default();
        for (name, value) in [
            ("void", AMQPValue::Void),
            ("flag", AMQPValue::Boolean(true)),
            ("short", AMQPValue::ShortInt(1)),
            ("long", AMQPValue::LongUInt(1)),
            ("longer", AMQPValue::LongLongInt(1)),
            ("real", AMQPValue::Double(1.5)),
            ("text", AMQPValue::LongString("é".into())),
            ("list", AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(inner)]))),
        ] {
            headers.insert(name.into(), value);
        }
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_timestamp(17)
            .with_message_id("17".into())
            .with_headers(headers);
        let encoded = gen_properties(&properties)(Vec::new().into()).expect("it is encoded");
        // The encoded flags are counted with the frame.
        assert_eq!(2 + size_of_properties(&properties), encoded.write.len());
    }

    #[test]
    fn a_refusal_names_the_limit_which_is_kept() {
        let limits = Limits::of_frames(131_072);
        let none = BasicProperties::default();
        assert!(limits.check(&none, 200_000).is_ok(), "not known yet");
        let text =
            "PRECONDITION_FAILED - message size 200000 is larger than configured max size 65536";
        let refusal = Oversized::read(text).expect("a refusal");
        let other = limits.refused(100, refusal);
        assert_eq!(
            (other.kind(), other.retryable()),
            (ErrorKind::Unavailable, Retry::MayDuplicate)
        );
        assert_eq!(limits.refused(200_000, refusal).kind(), ErrorKind::TooLarge);
        assert_eq!(limits.check(&none, 65_537).map_err(|e| e.kind()), Err(ErrorKind::TooLarge));
        assert!(limits.check(&none, 65_536).is_ok());
        assert_eq!(Oversized::read("PRECONDITION_FAILED - unknown delivery tag 4"), None);
    }
}
