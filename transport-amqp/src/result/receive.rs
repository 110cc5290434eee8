//! Receives the results of the whole process on one channel.
//!
//! Direct reply-to belongs to a channel: the broker writes the channel's name into messages that are
//! published on it. Calls are published on other channels, by another transport. So a message to this
//! process itself is published here, and the name is read from it.

use bytes::Bytes;
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Channel, Consumer,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{FieldTable, ShortString},
};
use lightbus_core::{Error, ErrorKind, PendingResults, Receives, Result, ReturnPath, json};
use tokio::task::JoinHandle;

use super::codec::{self, RETURN_PREFIX};
use crate::{client::Client, error::Sent, link::Link};

/// The pseudo-queue from which a channel receives its results.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// How often to look for the message to this process itself.
const LOOKS: usize = 100;

/// The task that receives. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Receiver {
    task: JoinHandle<()>,
    channel: Channel,
    path: ReturnPath,
}

impl Receiver {
    /// Starts receiving.
    pub(super) async fn start(client: &Client, pending: PendingResults) -> Result<Self> {
        let link = client.receives().await?;
        let channel = link.channel().await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consume =
            channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default());
        let consumer = link.request(consume, Sent::Harmless).await?;
        let path = ReturnPath::new(own_name(&link, &channel).await?);
        let task = tokio::spawn(receive(consumer, pending, path.clone()));
        Ok(Self { task, channel, path })
    }
}

impl Receives for Receiver {
    fn return_path(&self) -> ReturnPath {
        self.path.clone()
    }

    fn is_running(&self) -> bool {
        !self.task.is_finished() && self.channel.status().connected()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Returns the broker's name of this channel.
async fn own_name(link: &Link, channel: &Channel) -> Result<String> {
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare("".into(), options, FieldTable::default());
    let queue = link.request(declare, Sent::Harmless).await?.name().clone();
    let properties = BasicProperties::default().with_reply_to(REPLY_TO.into());
    let publish = channel.basic_publish(
        "".into(),
        queue.clone(),
        BasicPublishOptions::default(),
        &[],
        properties,
    );
    link.request(publish, Sent::Harmless).await?;
    let mut name = None;
    // Found at once, because the broker keeps the order of a channel.
    for _ in 0..LOOKS {
        let get = channel.basic_get(queue.clone(), BasicGetOptions { no_ack: true });
        if let Some(message) = link.request(get, Sent::Harmless).await? {
            name = message.delivery.properties.reply_to().as_ref().map(ShortString::to_string);
            break;
        }
    }
    let delete = channel.queue_delete(queue, QueueDeleteOptions::default());
    link.request(delete, Sent::Harmless).await?;
    name.filter(|name| name.starts_with(RETURN_PREFIX)).ok_or_else(|| {
        Error::new(ErrorKind::Unexpected, "RabbitMQ did not return the name of the reply channel")
            .with("broker", format_args!("rabbitmq {}", link.broker()))
            .hint("Is this broker RabbitMQ? Its direct reply-to is needed")
    })
}

async fn receive(mut consumer: Consumer, pending: PendingResults, path: ReturnPath) {
    receive_until_lost(&mut consumer, &pending).await;
    // Its channel is gone, so that nothing that is registered from now on is sent here.
    let lost = pending.fail_lost(&path);
    if lost > 0 {
        tracing::warn!(lost, "the results of waiting calls are lost: their callers are told");
    }
}

async fn receive_until_lost(consumer: &mut Consumer, pending: &PendingResults) {
    let mut malformed = 0_u64;
    while let Some(delivery) = consumer.next().await {
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) => {
                // The next call starts receiving again, with another return path.
                tracing::warn!(%error, "receiving results was interrupted");
                return;
            }
        };
        let body = Bytes::from(delivery.data);
        match codec::decode_result(&delivery.properties, body.clone()) {
            Ok(result) => {
                pending.complete(result);
            }
            Err(error) => {
                malformed += 1;
                if let Some(id) = codec::answered_call(&delivery.properties) {
                    pending.fail_unreadable(id, &error);
                }
                tracing::warn!(
                    %error,
                    message = json::excerpt(&body),
                    total = malformed,
                    "a result cannot be read"
                );
            }
        }
    }
}
