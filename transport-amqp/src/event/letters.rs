//! Reading, removing and giving back dead letters, which RabbitMQ offers only in turn: messages are
//! taken from the head of their queue, and those that are not meant go back.
//!
//! Always all of them: a quorum queue puts what comes back behind what came back before, so that to take
//! only some would turn the queue round. Their order is that of their ids in any case. Who does so at the
//! same time may see less: what one has in its hands is hidden from the other.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use lapin::{
    Channel,
    message::Delivery,
    options::{BasicAckOptions, BasicGetOptions, BasicNackOptions},
    types::ShortString,
};
use lightbus_core::{Error, ErrorKind, Name, Result, transport::DeadLetter};

use super::{dead, raw::Raw};
use crate::{
    EventConfig,
    client::Client,
    error::{Sent, is_missing},
    link::Link,
    publisher::{Message, Publisher},
    topology::{dead_letters_of, queue_of, short},
};

/// The most letters that are published in one go, and held for it.
const BATCH: usize = 256;

/// A queue from whose head messages are taken. Dropped, it gives back all that were not acknowledged.
struct Hands {
    link: Arc<Link>,
    channel: Channel,
    queue: ShortString,
    /// How many are left of those that were there at first, once that is known: what is set aside
    /// meanwhile is not taken, or it might never end.
    left: Option<u32>,
    /// The last one that is to go back.
    back: Option<u64>,
}

impl Hands {
    async fn on(client: &Client, config: &EventConfig, group: &str) -> Result<Self> {
        let queue = short("the name of a queue", &dead_letters_of(config, group))?;
        let link = client.consumes().await?;
        Ok(Self { channel: link.channel().await?, queue, link, left: None, back: None })
    }

    /// The next one; `None` also where there is no such queue.
    async fn take(&mut self) -> Result<Option<Delivery>> {
        if self.left == Some(0) {
            return Ok(None);
        }
        let get = self.channel.basic_get(self.queue.clone(), BasicGetOptions { no_ack: false });
        let taken = match self.link.asked(get).await? {
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
    fn keep(&mut self, tag: u64) {
        self.back = self.back.max(Some(tag));
    }

    async fn acknowledge(&self, tag: u64) -> Result<()> {
        let ack = self.channel.basic_ack(tag, BasicAckOptions { multiple: false });
        self.link.answered(ack, Sent::Harmless).await
    }

    /// Gives back what is to go back; all that was acknowledged is gone when this returns.
    async fn close(self) -> Result<()> {
        if !self.channel.status().connected() {
            return Ok(());
        }
        if let Some(last) = self.back {
            let options = BasicNackOptions { multiple: true, requeue: true };
            self.link.answered(self.channel.basic_nack(last, options), Sent::Harmless).await?;
        }
        self.link.answered(self.channel.close(200, "done".into()), Sent::Harmless).await
    }
}

/// What a group set aside, oldest first: all, or what comes after a letter, which may be gone. Oldest
/// as well as the clocks of those who set aside agree.
pub(super) async fn list(
    client: &Client,
    config: &EventConfig,
    group: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<DeadLetter>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let mut hands = Hands::on(client, config, group).await?;
    let order = |id: &str| (dead::place(id).unwrap_or(0), Name::from(id));
    let last = after.map(order);
    let mut is_known = after.is_none_or(|after| dead::place(after).is_some());
    let mut letters = BTreeMap::new();
    while let Some(delivery) = hands.take().await? {
        hands.keep(delivery.delivery_tag);
        let raw = Raw::new(delivery);
        let place = order(&dead::id(&raw));
        is_known |= last.as_ref() == Some(&place);
        let is_late = letters.len() == limit
            && letters.last_key_value().is_some_and(|(last, _)| place > *last);
        if is_late || last.as_ref().is_some_and(|last| place <= *last) {
            continue;
        }
        letters.insert(place, dead::read(raw, group));
        if letters.len() > limit {
            letters.pop_last();
        }
    }
    hands.close().await?;
    match after {
        Some(after) if !is_known => {
            Err(Error::new(ErrorKind::Invalid, "this is not the id of a dead letter")
                .with("id", after))
        }
        _ => Ok(letters.into_values().collect()),
    }
}

/// Removes letters by their ids; gives how many there were.
pub(super) async fn remove(
    client: &Client,
    config: &EventConfig,
    group: &str,
    ids: &[Name],
) -> Result<usize> {
    let mut wanted: HashSet<&Name> = ids.iter().collect();
    let count = wanted.len();
    if wanted.is_empty() {
        return Ok(0);
    }
    let mut hands = Hands::on(client, config, group).await?;
    while let Some(delivery) = hands.take().await? {
        let tag = delivery.delivery_tag;
        if wanted.remove(&dead::id(&Raw::new(delivery))) {
            hands.acknowledge(tag).await?;
        } else {
            hands.keep(tag);
        }
    }
    hands.close().await?;
    Ok(count - wanted.len())
}

/// Publishes the events of letters to the queue of their group, and then removes the letters; gives how
/// many there were.
pub(super) async fn retry(
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
    let mut hands = Hands::on(client, config, group).await?;
    let queue = short("the name of a queue", &queue_of(config, group))?;
    let mut retried = 0;
    let mut done = Ok(());
    let mut over = false;
    while !over {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(delivery) = hands.take().await? else {
                over = true;
                break;
            };
            let tag = delivery.delivery_tag;
            let raw = Raw::new(delivery);
            // After an error the rest is only taken to go back in its order.
            if done.is_ok() && wanted.remove(&dead::id(&raw)) {
                batch.push((tag, dead::revived(raw, queue.clone())));
            } else {
                hands.keep(tag);
            }
        }
        if !batch.is_empty() {
            done = give_back(&mut hands, publisher, batch, &mut retried).await;
        }
    }
    hands.close().await?;
    done.map(|()| retried)
}

/// Publishes letters, and acknowledges those that the broker has confirmed.
async fn give_back(
    hands: &mut Hands,
    publisher: &Publisher,
    batch: Vec<(u64, Message)>,
    retried: &mut usize,
) -> Result<()> {
    let queue = hands.queue.clone();
    let (tags, messages): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let published = match publisher.outlet().await {
        Ok(outlet) => publisher.publish_all(&outlet, messages, publisher.deadline()).await,
        Err(error) => tags.iter().map(|_| Err(error.clone())).collect(),
    };
    let mut failed = Ok(());
    for (tag, published) in tags.into_iter().zip(published) {
        match published {
            Ok(None) => {
                hands.acknowledge(tag).await?;
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
        hands.keep(tag);
    }
    failed
}
