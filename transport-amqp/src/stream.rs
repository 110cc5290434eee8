//! Reads streams from any offset, without removing messages.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Consumer,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use lightbus_core::{Error, ErrorKind, Result, Retry, time::deadline_after};

use crate::{
    client::Client,
    error::Sent,
    event::Raw,
    header,
    link::Link,
    publisher::{Message, PublishChannel, Publisher},
    set_up::set_up,
    topology::short,
};

/// How many entries the broker sends before they are acknowledged.
const AHEAD: u16 = 200;

/// Marks the end of a stream, and returns the name of the mark.
///
/// There is no other way to find the end of a stream: the broker's count lags behind, and a consumer
/// waits at the end.
pub(crate) async fn publish_mark(
    publisher: &Publisher,
    out: &PublishChannel,
    stream: &str,
) -> Result<String> {
    let name = unique();
    let mut headers = FieldTable::default();
    headers.insert(header::MARK.into(), header::text(&name));
    let message = Message {
        exchange: "".into(),
        key: short("the name of a stream", stream)?,
        mandatory: true,
        properties: BasicProperties::default().with_headers(headers),
        body: bytes::Bytes::new(),
    };
    match publisher.publish(out, message, publisher.deadline()).await {
        Ok(None) => Ok(name),
        Ok(Some(_)) => {
            out.forget(stream);
            Err(Error::new(ErrorKind::Unavailable, "the stream was deleted").with("stream", stream))
        }
        // Marking twice does no harm.
        Err(error) if error.is_temporary() => Err(error.retry(Retry::Safe)),
        Err(error) => Err(error),
    }
}

/// Returns a unique name.
fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let random = RandomState::new().hash_one(number);
    format!("{:x}-{number:x}-{random:016x}", std::process::id())
}

/// An entry of a stream.
pub(crate) struct Entry {
    pub(crate) offset: u64,
    pub(crate) raw: Raw,
}

impl Entry {
    /// Returns the name of the mark, if it is one.
    pub(crate) fn mark(&self) -> Option<&str> {
        header::string(self.raw.properties.headers().as_ref()?, header::MARK)
    }
}

/// Reads a stream from an offset on, until it is dropped.
pub(crate) struct Reader {
    link: Arc<Link>,
    channel: Channel,
    consumer: Consumer,
    /// How many entries were read and not acknowledged, and the tag of the last.
    unacknowledged: (u16, u64),
}

impl Reader {
    /// Starts at this offset, or at the first after it that still exists.
    pub(crate) async fn open(client: &Client, stream: &str, from: u64) -> Result<Self> {
        let offset = i64::try_from(from).unwrap_or(i64::MAX);
        Self::begin(client, stream, AMQPValue::LongLongInt(offset)).await
    }

    /// Starts shortly before the end.
    pub(crate) async fn open_near_end(client: &Client, stream: &str) -> Result<Self> {
        Self::begin(client, stream, AMQPValue::LongString("last".into())).await
    }

    async fn begin(client: &Client, stream: &str, offset: AMQPValue) -> Result<Self> {
        let offset = &offset;
        let on = |link| Self::begin_on(link, stream, offset.clone());
        set_up(deadline_after(client.response_timeout()), || client.consumes(), on).await
    }

    async fn begin_on(link: Arc<Link>, stream: &str, offset: AMQPValue) -> Result<Self> {
        let channel = link.channel().await?;
        let limit = channel.basic_qos(AHEAD, BasicQosOptions { global: false });
        link.request(limit, Sent::Harmless).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), offset);
        let consume = channel.basic_consume(
            short("the name of a stream", stream)?,
            "".into(),
            BasicConsumeOptions::default(),
            arguments,
        );
        let consumer = link.request(consume, Sent::Harmless).await?;
        Ok(Self { link, channel, consumer, unacknowledged: (0, 0) })
    }

    /// Returns the next entry. There must be one: it fails after the response timeout.
    pub(crate) async fn next(&mut self) -> Result<Entry> {
        let (count, last) = &mut self.unacknowledged;
        if *count >= AHEAD / 2 {
            let ack = self.channel.basic_ack(*last, BasicAckOptions { multiple: true });
            self.link.request(ack, Sent::Harmless).await?;
            *count = 0;
        }
        let limit = self.link.response_timeout();
        let delivery = match tokio::time::timeout(limit, self.consumer.next()).await {
            Ok(Some(Ok(delivery))) => delivery,
            Ok(Some(Err(error))) => return Err(self.link.explain(error, Sent::Harmless)),
            Ok(None) => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the stream was deleted, or has moved",
                ));
            }
            Err(_) => return Err(self.link.no_answer().retry(Retry::Safe)),
        };
        self.unacknowledged = (self.unacknowledged.0 + 1, delivery.delivery_tag);
        let raw = Raw::new(delivery);
        let headers = raw.properties.headers().as_ref();
        let offset = headers
            .and_then(|table| header::int(table, "x-stream-offset"))
            .and_then(|offset| u64::try_from(offset).ok())
            .ok_or_else(|| {
                Error::new(ErrorKind::Unexpected, "an entry of a stream has no offset")
            })?;
        Ok(Entry { offset, raw })
    }
}
