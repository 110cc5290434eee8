//! Dead letters published again to the queue of their group.

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

/// The most letters that are published in one go, and held for it.
const BATCH: usize = 256;

/// Publishes the events of letters to the queue of their group, and then removes the letters; gives how
/// many there were.
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
            // After an error the rest is only taken to go back in its order.
            if done.is_ok() && wanted.remove(&codec::id(&raw)) {
                batch.push((tag, codec::revived(raw, queue.clone())));
            } else {
                drain.keep(tag);
            }
        }
        if !batch.is_empty() {
            done = give_back(&mut drain, publisher, batch, &mut retried).await;
        }
    }
    drain.close().await?;
    done.map(|()| retried)
}

/// Publishes letters, and acknowledges those that the broker has confirmed.
async fn give_back(
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
                    "the queue of the listener is not there any more",
                )
                .with("dead letters", queue.as_str())
                .hint("Start the listener once, so that RabbitMQ has its queue, and give the dead letters back then"));
            }
            Err(error) => failed = Err(error),
        }
        drain.keep(tag);
    }
    failed
}
