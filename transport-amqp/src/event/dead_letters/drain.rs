//! Drains a queue of dead letters, and requeues the messages that are kept.

use std::sync::Arc;

use lapin::{
    Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions},
    types::ShortString,
};
use lightbus_core::Result;

use crate::{
    EventConfig,
    client::Client,
    error::{Sent, is_missing},
    link::Link,
    topology::{dead_letters_of, short},
};

/// Takes messages from the head of a queue. When it is dropped, the broker requeues all that were not
/// acknowledged.
pub(super) struct QueueDrain {
    link: Arc<Link>,
    channel: Channel,
    pub(super) queue: ShortString,
    /// How many are left of the messages that the queue had at first, once that is known. Messages that
    /// arrive meanwhile are not taken, or draining might never end.
    left: Option<u32>,
    /// The last message to requeue.
    back: Option<u64>,
}

impl QueueDrain {
    pub(super) async fn on(client: &Client, config: &EventConfig, group: &str) -> Result<Self> {
        let queue = short("the name of a queue", &dead_letters_of(config, group))?;
        let link = client.consumes().await?;
        Ok(Self { channel: link.channel().await?, queue, link, left: None, back: None })
    }

    /// Takes the next message; `None` also if the queue does not exist.
    pub(super) async fn take(&mut self) -> Result<Option<Delivery>> {
        if self.left == Some(0) {
            return Ok(None);
        }
        let get = self.channel.basic_get(self.queue.clone(), BasicGetOptions { no_ack: false });
        let taken = match self.link.with_timeout(get).await? {
            Ok(taken) => taken,
            Err(error) if is_missing(&error) => None,
            Err(error) => return Err(self.link.explain(error, Sent::Harmless)),
        };
        // The count in a delivery is exact. The count in a declaration lags behind requeued messages.
        let count = taken.as_ref().map_or(0, |taken| taken.message_count);
        self.left = Some(self.left.map_or(count, |left| left - 1).min(count));
        Ok(taken.map(|taken| taken.delivery))
    }

    /// Keeps a message: it is requeued, with all before it that were not acknowledged.
    pub(super) fn keep(&mut self, tag: u64) {
        self.back = self.back.max(Some(tag));
    }

    pub(super) async fn acknowledge(&self, tag: u64) -> Result<()> {
        let ack = self.channel.basic_ack(tag, BasicAckOptions { multiple: false });
        self.link.request(ack, Sent::Harmless).await
    }

    /// Requeues the messages to keep. When this returns, the acknowledged ones are removed.
    pub(super) async fn close(self) -> Result<()> {
        if !self.channel.status().connected() {
            return Ok(());
        }
        if let Some(last) = self.back {
            let options = BasicNackOptions { multiple: true, requeue: true };
            self.link.request(self.channel.basic_nack(last, options), Sent::Harmless).await?;
        }
        self.link.request(self.channel.close(200, "done".into()), Sent::Harmless).await
    }
}
