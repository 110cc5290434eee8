//! Dead letters: a queue for each group, which is listed, removed from and requeued from.
//!
//! RabbitMQ returns messages only from the head of a queue. So each operation drains the queue, and
//! requeues the messages that it does not want. It always drains the whole queue: a quorum queue puts
//! requeued messages behind those that were requeued before, so that draining a part would change their
//! order. Dead letters are listed in the order of their ids in any case. Two operations at the same time
//! hide messages from each other.

mod codec;
mod drain;
mod publish;
mod requeue;

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, Name, Result,
    transport::{DeadLetter, DeadLetters, GroupSpec},
};

use super::{AmqpEventTransport, codec::Raw};
use crate::{EventConfig, client::Client};
use drain::QueueDrain;
pub(super) use publish::publish;

/// Returns the dead letters of a group, oldest first: all, or those after this id, which may have been
/// removed. The order depends on the clocks of the processes that rejected them.
async fn list(
    client: &Client,
    config: &EventConfig,
    group: &GroupSpec,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut drain = QueueDrain::on(client, config, &group.name()).await?;
    let order = |id: &str| (codec::sequence(id).unwrap_or(0), Name::from(id));
    let last = after.map(order);
    let mut is_known = after.is_none_or(|after| codec::sequence(after).is_some());
    let mut letters = BTreeMap::new();
    while let Some(delivery) = drain.take().await? {
        drain.keep(delivery.delivery_tag);
        let raw = Raw::new(delivery);
        let key = order(&codec::id(&raw));
        is_known |= last.as_ref() == Some(&key);
        let is_late =
            letters.len() == limit && letters.last_key_value().is_some_and(|(last, _)| key > *last);
        if is_late || last.as_ref().is_some_and(|last| key <= *last) {
            continue;
        }
        letters.insert(key, codec::read(raw, group));
        if letters.len() > limit {
            letters.pop_last();
        }
    }
    drain.close().await?;
    match after {
        Some(after) if !is_known => {
            Err(Error::new(ErrorKind::Invalid, "this is not the id of a dead letter")
                .with("id", after))
        }
        _ => Ok(letters.into_values().collect()),
    }
}

/// Removes dead letters by their ids, and returns how many there were.
async fn remove(client: &Client, config: &EventConfig, group: &str, ids: &[Name]) -> Result<usize> {
    let mut wanted: HashSet<&Name> = ids.iter().collect();
    let count = wanted.len();
    if wanted.is_empty() {
        return Ok(0);
    }
    let mut drain = QueueDrain::on(client, config, group).await?;
    while let Some(delivery) = drain.take().await? {
        let tag = delivery.delivery_tag;
        if wanted.remove(&codec::id(&Raw::new(delivery))) {
            drain.acknowledge(tag).await?;
        } else {
            drain.keep(tag);
        }
    }
    drain.close().await?;
    Ok(count - wanted.len())
}

#[async_trait]
impl DeadLetters for AmqpEventTransport {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let client = self.handle.client()?;
        list(client, &self.config, group, after, limit).await
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        remove(self.handle.client()?, &self.config, &group.name(), ids).await
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let client = self.handle.client()?;
        requeue::requeue(client, &self.publisher, &self.config, &group.name(), ids).await
    }
}
