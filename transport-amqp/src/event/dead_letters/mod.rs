//! Reading, removing and giving back dead letters, which RabbitMQ offers only in turn: messages are
//! taken from the head of their queue, and those that are not meant go back.
//!
//! Always all of them: a quorum queue puts what comes back behind what came back before, so that to take
//! only some would turn the queue round. Their order is that of their ids in any case. Who does so at the
//! same time may see less: what one has in its drain is hidden from the other.

mod codec;
mod drain;
mod requeue;

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, Name, Result,
    transport::{DeadLetter, DeadLetters, GroupSpec},
};

use super::{AmqpEventTransport, WHAT, codec::Raw};
use crate::{EventConfig, client::Client};
pub(super) use codec::set_aside;
use drain::QueueDrain;

/// What a group set aside, oldest first: all, or what comes after a letter, which may be gone. Oldest
/// as well as the clocks of those who set aside agree.
async fn list(
    client: &Client,
    config: &EventConfig,
    group: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut drain = QueueDrain::on(client, config, group).await?;
    let order = |id: &str| (codec::place(id).unwrap_or(0), Name::from(id));
    let last = after.map(order);
    let mut is_known = after.is_none_or(|after| codec::place(after).is_some());
    let mut letters = BTreeMap::new();
    while let Some(delivery) = drain.take().await? {
        drain.keep(delivery.delivery_tag);
        let raw = Raw::new(delivery);
        let place = order(&codec::id(&raw));
        is_known |= last.as_ref() == Some(&place);
        let is_late = letters.len() == limit
            && letters.last_key_value().is_some_and(|(last, _)| place > *last);
        if is_late || last.as_ref().is_some_and(|last| place <= *last) {
            continue;
        }
        letters.insert(place, codec::read(raw, group));
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

/// Removes letters by their ids; gives how many there were.
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
        let client = self.handle.client(WHAT)?;
        list(client, &self.config, &group.name(), after, limit).await
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        remove(self.handle.client(WHAT)?, &self.config, &group.name(), ids).await
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let client = self.handle.client(WHAT)?;
        requeue::requeue(client, &self.publisher, &self.config, &group.name(), ids).await
    }
}
