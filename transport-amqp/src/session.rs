//! A channel that consumes, and the acknowledgements that go back on it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join_all},
    stream::{self, BoxStream, SelectAll},
};
use lapin::{
    Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions},
    types::{FieldTable, ShortString},
};
use lightbus_core::{Error, ErrorKind, Name, Result};

use crate::{delivered::Delivered, error::Sent, link::Link, topology::short};

/// A channel whose consumers deliver messages to be settled.
pub(crate) struct Session {
    pub(crate) link: Arc<Link>,
    pub(crate) channel: Channel,
    delivered: Mutex<Delivered>,
}

/// What the consumers of a session deliver: from where, and what; `None` where one has ended.
pub(crate) type Inbox = SelectAll<BoxStream<'static, (Name, Option<lapin::Result<Delivery>>)>>;

impl Session {
    pub(crate) fn new(link: Arc<Link>, channel: Channel) -> Self {
        Self { link, channel, delivered: Mutex::new(Delivered::new()) }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.link.is_alive() && self.channel.status().connected()
    }

    /// Begins to consume from a queue. What comes is marked with `name`.
    pub(crate) async fn consume(
        &self,
        queue: &str,
        name: Name,
        inbox: &mut Inbox,
    ) -> Result<ShortString> {
        let consume = self.channel.basic_consume(
            short("the name of a queue", queue)?,
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = self.link.request(consume, Sent::Harmless).await?;
        let tag = consumer.tag();
        let end = stream::once(std::future::ready(None));
        inbox.push(
            consumer
                .map(Some)
                .chain(end)
                .map(move |delivery| (Name::clone(&name), delivery))
                .boxed(),
        );
        Ok(tag)
    }

    /// Ends consumers: when it returns, all that they will ever deliver has come.
    pub(crate) async fn cancel(&self, tags: &[ShortString]) {
        for tag in tags {
            let cancel = self.channel.basic_cancel(tag.clone(), BasicCancelOptions::default());
            if let Err(error) = self.link.request(cancel, Sent::Harmless).await {
                tracing::debug!(%error, "a consumer was not ended, its connection is");
                return;
            }
        }
    }

    /// Acknowledges these, those that were before excepted, with as few frames as possible.
    ///
    /// On a channel that is no more it does nothing: the broker gives the messages to somebody else.
    pub(crate) async fn acknowledge(&self, tags: impl Iterator<Item = u64>) {
        let sending = {
            let mut delivered = self.delivered();
            let new = tags.filter(|tag| delivered.settle(*tag)).collect();
            let acks = delivered.acks(new);
            if !self.is_alive() {
                return;
            }
            let multiple = acks.up_to.map(|tag| (tag, true));
            let all = multiple.into_iter().chain(acks.single.into_iter().map(|tag| (tag, false)));
            let frames = all
                .map(|(tag, multiple)| self.channel.basic_ack(tag, BasicAckOptions { multiple }));
            // Within the lock: one that comes after another that covers it is an error to the broker.
            handed_over(frames)
        };
        self.written(sending).await;
    }

    /// Whether this was acknowledged or given back.
    pub(crate) fn is_settled(&self, tag: u64) -> bool {
        self.delivered().is_settled(tag)
    }

    /// Gives these back to the queue, in their order.
    pub(crate) async fn give_back(&self, mut tags: Vec<u64>) {
        tags.sort_unstable();
        let sending = {
            let mut delivered = self.delivered();
            tags.retain(|tag| delivered.settle(*tag));
            // They are settled, if otherwise than the rest.
            let _ = delivered.acks(tags.clone());
            if !self.is_alive() {
                return;
            }
            let options = BasicNackOptions { multiple: false, requeue: true };
            handed_over(tags.into_iter().map(|tag| self.channel.basic_nack(tag, options)))
        };
        self.written(sending).await;
    }

    /// Waits until frames are on their way.
    async fn written(&self, sending: Vec<Sending<'_>>) {
        if sending.is_empty() {
            return;
        }
        let all = async { join_all(sending).await.into_iter().collect::<lapin::Result<()>>() };
        match self.link.with_timeout(all).await {
            Ok(Ok(())) => {}
            // With the connection the broker forgets who had what.
            Ok(Err(error)) => {
                tracing::debug!(%error, "acknowledging failed, the messages come again")
            }
            Err(error) => tracing::debug!(%error, "acknowledging failed, the messages come again"),
        }
    }

    fn delivered(&self) -> MutexGuard<'_, Delivered> {
        // Nothing panics while it is locked.
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of a session that has ended, `error` being what the consumer said.
    pub(crate) fn ended(&self, error: Option<lapin::Error>) -> Error {
        match error {
            Some(error) => self.link.explain(error, Sent::Harmless),
            None => Error::new(
                ErrorKind::Unavailable,
                "RabbitMQ has ended the consumer: its queue was deleted, or has moved",
            )
            .with("broker", format_args!("rabbitmq {}", self.link.broker())),
        }
    }
}

/// A frame on its way.
type Sending<'a> = BoxFuture<'a, lapin::Result<()>>;

/// QueueDrain frames to the client, in this order, without waiting for them to be written. Gives those
/// that are not written yet.
fn handed_over<'a>(
    frames: impl Iterator<Item = impl Future<Output = lapin::Result<()>> + Send + 'a>,
) -> Vec<Sending<'a>> {
    let mut sending = Vec::new();
    for frame in frames {
        // The client takes it when it is polled for the first time.
        let mut frame = frame.boxed();
        match (&mut frame).now_or_never() {
            Some(Ok(())) => {}
            Some(error) => sending.push(std::future::ready(error).boxed()),
            None => sending.push(frame),
        }
    }
    sending
}

/// What is there of an inbox without waiting.
pub(crate) fn at_hand(inbox: &mut Inbox) -> Option<(Name, Option<lapin::Result<Delivery>>)> {
    inbox.next().now_or_never().flatten()
}
