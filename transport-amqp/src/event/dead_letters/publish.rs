//! Publishes dead letters, and declares their queue again where it was deleted.

use lapin::message::BasicReturnMessage;
use lightbus_core::{Error, ErrorKind, Result};

use super::codec;
use crate::{
    EventConfig,
    event::codec::Raw,
    publisher::{Message, PublishChannel, Publisher},
    topology::{QueueSpec, group_of_dead_letters},
};

/// How often a queue is declared for one dead letter: it may be deleted again.
const DECLARATIONS: u32 = 3;

/// Publishes a message to the dead letters of a group. Repeated, it is there twice.
pub(in crate::event) async fn publish(
    publisher: &Publisher,
    config: &EventConfig,
    group: &str,
    reason: &str,
    attempts: u32,
    raw: &Raw,
) -> Result<()> {
    let mut message = codec::dead_letter(config, group, reason, attempts, raw)?;
    let out = publisher.channel().await?;
    for _ in 0..=DECLARATIONS {
        match publisher.publish(&out, message, publisher.deadline()).await? {
            None => return Ok(()),
            Some(returned) => message = declare(&out, config, returned).await?,
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "the queue of dead letters is deleted again and again")
        .with("group", group))
}

/// Declares the queue of a dead letter that the broker returned because the queue does not exist, and
/// returns the dead letter. It may be that of another listener: the client library hands returned messages
/// out with the next confirm.
async fn declare(
    out: &PublishChannel,
    config: &EventConfig,
    returned: BasicReturnMessage,
) -> Result<Message> {
    let queue = returned.delivery.routing_key;
    let group = group_of_dead_letters(config, queue.as_str());
    tracing::warn!(
        listener = group,
        queue = queue.as_str(),
        "the queue of dead letters was deleted, with all that it held: it is declared again"
    );
    // On a channel of its own: a conflict closes it.
    let channel = out.link.channel().await?;
    QueueSpec::dead_letters(group, config).declare(&out.link, &channel).await?;
    Ok(Message {
        exchange: "".into(),
        key: queue,
        mandatory: true,
        properties: returned.delivery.properties,
        body: returned.delivery.data.into(),
    })
}
