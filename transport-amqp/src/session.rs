//! A channel that consumes, and the acknowledgements on it.

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

/// A channel with consumers, and which of its deliveries are settled.
pub(crate) struct Session {
    pub(crate) link: Arc<Link>,
    pub(crate) channel: Channel,
    delivered: Mutex<Delivered>,
    /// Ends with the channel: then the broker redelivers what is not settled.
    deliveries: lightbus_core::Session,
}

/// The deliveries of a session's consumers, each with the consumer's name; `None` when a consumer ends.
pub(crate) type Inbox = SelectAll<BoxStream<'static, (Name, Option<lapin::Result<Delivery>>)>>;

impl Session {
    pub(crate) fn new(link: Arc<Link>, channel: Channel) -> Self {
        let deliveries = lightbus_core::Session::new();
        Self { link, channel, delivered: Mutex::new(Delivered::new()), deliveries }
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.link.is_alive() && self.channel.status().connected()
    }

    /// Starts consuming from a queue. Its deliveries carry `name`.
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

    /// Cancels consumers. When it returns, all their deliveries are in the inbox.
    pub(crate) async fn cancel(&self, tags: &[ShortString]) {
        for tag in tags {
            let cancel = self.channel.basic_cancel(tag.clone(), BasicCancelOptions::default());
            if let Err(error) = self.link.request(cancel, Sent::Harmless).await {
                tracing::debug!(%error, "a consumer could not be cancelled, because its connection is lost");
                return;
            }
        }
    }

    /// Acknowledges deliveries that are not settled yet, with as few frames as possible.
    ///
    /// Does nothing on a closed channel: the broker has requeued its messages.
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
            // While locked: an acknowledgement after one that covers it is an error.
            handed_over(frames)
        };
        self.written(sending).await;
    }

    /// Whether a delivery was acknowledged or requeued.
    pub(crate) fn is_settled(&self, tag: u64) -> bool {
        self.delivered().is_settled(tag)
    }

    /// Requeues deliveries that are not settled yet, in order.
    pub(crate) async fn requeue(&self, tags: Vec<u64>) {
        self.refuse(tags, true).await;
    }

    /// Has the broker dead-letter a delivery that is not settled yet.
    pub(crate) async fn reject(&self, tag: u64) {
        self.refuse(vec![tag], false).await;
    }

    async fn refuse(&self, mut tags: Vec<u64>, requeue: bool) {
        tags.sort_unstable();
        let sending = {
            let mut delivered = self.delivered();
            tags.retain(|tag| delivered.settle(*tag));
            // They are settled too, so that later acknowledgements skip them.
            let _ = delivered.acks(tags.clone());
            if !self.is_alive() {
                return;
            }
            let options = BasicNackOptions { multiple: false, requeue };
            handed_over(tags.into_iter().map(|tag| self.channel.basic_nack(tag, options)))
        };
        self.written(sending).await;
    }

    /// Waits until frames are written.
    async fn written(&self, sending: Vec<Sending<'_>>) {
        if sending.is_empty() {
            return;
        }
        let all = async { join_all(sending).await.into_iter().collect::<lapin::Result<()>>() };
        match self.link.with_timeout(all).await {
            Ok(Ok(())) => {}
            // The broker requeues what a lost connection had.
            Ok(Err(error)) => {
                tracing::debug!(%error, "acknowledging failed: the messages are redelivered")
            }
            Err(error) => {
                tracing::debug!(%error, "acknowledging failed: the messages are redelivered")
            }
        }
    }

    fn delivered(&self) -> MutexGuard<'_, Delivered> {
        // Nothing panics while it is locked.
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What deliveries of this session depend on.
    pub(crate) fn deliveries(&self) -> &lightbus_core::Session {
        &self.deliveries
    }

    /// Returns the error of a session that has ended. `error` is what its consumer reported.
    pub(crate) fn ended(&self, error: Option<lapin::Error>) -> Error {
        match error {
            Some(error) => self.link.explain(error, Sent::Harmless),
            None => Error::new(
                ErrorKind::Unavailable,
                "RabbitMQ cancelled the consumer: its queue was deleted, or has moved",
            )
            .with("broker", format_args!("rabbitmq {}", self.link.broker())),
        }
    }
}

/// A frame that is being written.
type Sending<'a> = BoxFuture<'a, lapin::Result<()>>;

/// Hands frames to the client library in order, without waiting for them to be written. Returns those
/// that are not written yet.
fn handed_over<'a>(
    frames: impl Iterator<Item = impl Future<Output = lapin::Result<()>> + Send + 'a>,
) -> Vec<Sending<'a>> {
    let mut sending = Vec::new();
    for frame in frames {
        // The client library takes it at the first poll.
        let mut frame = frame.boxed();
        match (&mut frame).now_or_never() {
            Some(Ok(())) => {}
            Some(error) => sending.push(std::future::ready(error).boxed()),
            None => sending.push(frame),
        }
    }
    sending
}

/// Returns the next item of an inbox, if there is one already.
pub(crate) fn try_next(inbox: &mut Inbox) -> Option<(Name, Option<lapin::Result<Delivery>>)> {
    inbox.next().now_or_never().flatten()
}
