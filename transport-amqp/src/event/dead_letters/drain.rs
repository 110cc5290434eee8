//! Taking messages from the head of a queue of dead letters, and giving back those that are not meant.

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

/// A queue from whose head messages are taken. Dropped, it gives back all that were not acknowledged.
pub(super) struct QueueDrain {
    link: Arc<Link>,
    channel: Channel,
    pub(super) queue: ShortString,
    /// How many are left of those that were there at first, once that is known: what is set aside
    /// meanwhile is not taken, or it might never end.
    left: Option<u32>,
    /// The last one that is to go back.
    back: Option<u64>,
}

impl QueueDrain {
    pub(super) async fn on(client: &Client, config: &EventConfig, group: &str) -> Result<Self> {
        let queue = short("the name of a queue", &dead_letters_of(config, group))?;
        let link = client.consumes().await?;
        Ok(Self { channel: link.channel().await?, queue, link, left: None, back: None })
    }

    /// The next one; `None` also where there is no such queue.
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
        // The count that comes with a message is exact. That of a declaration lags behind what was
        // given back.
        let count = taken.as_ref().map_or(0, |taken| taken.message_count);
        self.left = Some(self.left.map_or(count, |left| left - 1).min(count));
        Ok(taken.map(|taken| taken.delivery))
    }

    /// It goes back, with those before that were not acknowledged.
    pub(super) fn keep(&mut self, tag: u64) {
        self.back = self.back.max(Some(tag));
    }

    pub(super) async fn acknowledge(&self, tag: u64) -> Result<()> {
        let ack = self.channel.basic_ack(tag, BasicAckOptions { multiple: false });
        self.link.request(ack, Sent::Harmless).await
    }

    /// Gives back what is to go back; all that was acknowledged is gone when this returns.
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
