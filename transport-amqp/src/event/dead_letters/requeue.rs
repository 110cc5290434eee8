//! Requeues dead letters: publishes their events to the queue of their group.

use std::collections::HashSet;

use lightbus_core::{Error, ErrorKind, Name, Result};

use super::{codec, drain::QueueDrain};
use crate::{
    EventConfig,
    client::Client,
    event::codec::Raw,
    publisher::{Message, Publisher},
    topology::{queue_of, short},
};

/// The most dead letters that are published at once.
const BATCH: usize = 256;

/// Publishes the events of dead letters to the queue of their group, removes the dead letters, and
/// returns how many there were.
pub(in crate::event) async fn requeue(
    client: &Client,
    publisher: &Publisher,
    config: &EventConfig,
    group: &str,
    ids: &[Name],
) -> Result<usize> {
    let mut wanted: HashSet<&Name> = ids.iter().collect();
    if wanted.is_empty() {
        return Ok(0);
    }
    let mut drain = QueueDrain::on(client, config, group).await?;
    let queue = short("the name of a queue", &queue_of(config, group))?;
    let mut retried = 0;
    let mut done = Ok(());
    let mut over = false;
    while !over {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(delivery) = drain.take().await? else {
                over = true;
                break;
            };
            let tag = delivery.delivery_tag;
            let raw = Raw::new(delivery);
            // After an error, the rest is drained only to be requeued in order.
            if done.is_ok() && wanted.remove(&codec::id(&raw)) {
                batch.push((tag, codec::revived(raw, queue.clone())));
            } else {
                drain.keep(tag);
            }
        }
        if !batch.is_empty() {
            done = publish(&mut drain, publisher, batch, &mut retried).await;
        }
    }
    drain.close().await?;
    done.map(|()| retried)
}

/// Publishes events, and removes the dead letters of those that the broker has confirmed.
async fn publish(
    drain: &mut QueueDrain,
    publisher: &Publisher,
    batch: Vec<(u64, Message)>,
    retried: &mut usize,
) -> Result<()> {
    let queue = drain.queue.clone();
    let (tags, messages): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let published = match publisher.channel().await {
        Ok(out) => publisher.publish_all(&out, messages, publisher.deadline()).await,
        Err(error) => tags.iter().map(|_| Err(error.clone())).collect(),
    };
    let mut failed = Ok(());
    for (tag, published) in tags.into_iter().zip(published) {
        match published {
            Ok(None) => {
                drain.acknowledge(tag).await?;
                *retried += 1;
                continue;
            }
            Ok(Some(_)) => {
                failed = Err(Error::new(
                    ErrorKind::Unknown,
                    "the queue of the listener does not exist any more",
                )
                .with("dead letters", queue.as_str())
                .hint("Start the listener once, so that its queue exists, and requeue the dead letters then"));
            }
            Err(error) => failed = Err(error),
        }
        drain.keep(tag);
    }
    failed
}
