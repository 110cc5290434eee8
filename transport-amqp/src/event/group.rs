//! The queue of a listener's group: declared, bound, and, if it is new, filled with past events.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use lapin::{
    Channel,
    options::{QueueDeclareOptions, QueueDeleteOptions},
    types::{FieldTable, ShortString},
};
use lightbus_core::{
    Backoff, Error, ErrorKind, Name, Result,
    time::deadline_after,
    transport::{EventSelector, ListenSpec, Start},
};
use tokio::time::sleep;

use super::{
    codec::{Read, wanted},
    history,
};
use crate::{
    EventConfig,
    client::Client,
    error::{Sent, is_locked},
    header,
    link::Link,
    publisher::{Message, Publisher},
    set_up::set_up,
    stream::{Entry, Reader},
    topology::{self, QueueSpec, history_of, queue_of, routing_key, short},
};

/// How many past events are published at once.
const BATCH: usize = 256;
/// How often to look whether another process has filled a queue.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LONGEST_LOOK: Duration = Duration::from_millis(500);

/// Declares the queues of a group. When this returns, no event that is fired later is missed.
pub(super) async fn ensure(
    client: &Arc<Client>,
    publisher: &Publisher,
    config: &EventConfig,
    spec: &ListenSpec,
) -> Result<()> {
    let deadline = deadline_after(client.response_timeout());
    set_up(
        deadline,
        || client.consumes(),
        |link: Arc<Link>| async move {
            if spec.start != Start::New {
                fill(client, publisher, config, spec, &link).await?;
            }
            restore(&link, config, spec).await
        },
    )
    .await
}

/// Deletes the queues of a group, which listened to these events, with their messages. It is no error if
/// they do not exist.
pub(super) async fn remove(
    client: &Client,
    config: &EventConfig,
    group: &str,
    events: &[EventSelector],
) -> Result<()> {
    let link = client.consumes().await?;
    unbind_all(&link, config, group, events).await?;
    let channel = link.channel().await?;
    for queue in [queue_of(config, group), topology::dead_letters_of(config, group)] {
        let name = short("the name of a queue", &queue)?;
        let delete = channel.queue_delete(name, QueueDeleteOptions::default());
        link.request(delete, Sent::Harmless).await?;
    }
    Ok(())
}

/// Declares and binds what a listener needs, on a channel of its own. What is there stays as it is.
pub(super) async fn restore(link: &Link, config: &EventConfig, spec: &ListenSpec) -> Result<()> {
    let channel = link.channel().await?;
    declare(link, &channel, config, &spec.group.name()).await?;
    bind_all(link, &channel, config, spec).await
}

/// Declares the queues of a group, and the exchange.
async fn declare(link: &Link, channel: &Channel, config: &EventConfig, group: &str) -> Result<()> {
    topology::declare_exchange(link, channel, &topology::exchange_of(config)).await?;
    QueueSpec::dead_letters(group, config).declare(link, channel).await?;
    QueueSpec::group(group, config).declare(link, channel).await
}

/// Takes a group's queue off the exchange. RabbitMQ 3.10 ends the connection of a process that fires an
/// event while a quorum queue is deleted to which it is routed (INTERNAL_ERROR).
async fn unbind_all(
    link: &Link,
    config: &EventConfig,
    group: &str,
    events: &[EventSelector],
) -> Result<()> {
    let exchange = short("the name of an exchange", &topology::exchange_of(config))?;
    let queue = short("the name of a queue", &queue_of(config, group))?;
    let each = events.iter().map(|event| routing_key(&event.api, event.event.as_ref()));
    let all = events.iter().map(|event| routing_key(&event.api, None));
    for key in each.chain(all) {
        // One that does not exist may end the channel.
        let channel = link.channel().await?;
        let key = short("the name of an event", &key)?;
        let unbind =
            channel.queue_unbind(queue.clone(), exchange.clone(), key, FieldTable::default());
        if let Err(error) = link.request(unbind, Sent::Harmless).await {
            tracing::debug!(%error, group, "a queue that is to be deleted could not be unbound");
        }
    }
    Ok(())
}

async fn bind_all(
    link: &Link,
    channel: &Channel,
    config: &EventConfig,
    spec: &ListenSpec,
) -> Result<()> {
    let queue = queue_of(config, &spec.group.name());
    for selector in &spec.events {
        let key = routing_key(&selector.api, selector.event.as_ref());
        topology::bind(link, channel, &topology::exchange_of(config), &queue, &key).await?;
    }
    Ok(())
}

/// Returns the queue that marks a group as being filled. Found later, filling was interrupted.
fn filling(queue: &str) -> String {
    format!("{queue}.filling")
}

/// Fills the queue of a new group with past events. A group that exists is left alone.
async fn fill(
    client: &Arc<Client>,
    publisher: &Publisher,
    config: &EventConfig,
    spec: &ListenSpec,
    link: &Arc<Link>,
) -> Result<()> {
    let queue = queue_of(config, &spec.group.name());
    let mut backoff = Backoff::new(FIRST_LOOK, LONGEST_LOOK);
    loop {
        if is_filled(link, &queue).await? {
            return Ok(());
        }
        if let Some(lock) = Lock::take(client, link, &queue).await? {
            // Another process may have filled it just now.
            let filled = match is_filled(link, &queue).await {
                Ok(false) => fill_locked(client, publisher, config, spec, &lock).await,
                Ok(true) => Ok(()),
                Err(error) => Err(error),
            };
            lock.release().await;
            return filled;
        }
        if backoff.failures() == 0 {
            tracing::info!(
                listener = &*spec.group.name(),
                "another process fills the queue of the listener with past events: waiting for it"
            );
        }
        sleep(backoff.failed()).await;
    }
}

/// Whether a group's queue exists, and is not being filled.
async fn is_filled(link: &Link, queue: &str) -> Result<bool> {
    Ok(topology::waiting(link, queue).await?.is_some()
        && topology::waiting(link, &filling(queue)).await?.is_none())
}

/// Held by the process that fills the queue of a group: an exclusive queue, which vanishes with its
/// connection. Within a process, which has one connection, a list of names serves the same purpose.
struct Lock<'a> {
    link: &'a Link,
    channel: Channel,
    name: ShortString,
    _here: Filling<'a>,
}

/// A name in the list of queues that this process fills.
struct Filling<'a> {
    client: &'a Client,
    queue: &'a str,
}

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.client.filling().remove(self.queue);
    }
}

impl<'a> Lock<'a> {
    /// Returns `None` if another has it.
    async fn take(client: &'a Client, link: &'a Link, queue: &'a str) -> Result<Option<Self>> {
        if !client.filling().insert(queue.to_owned()) {
            return Ok(None);
        }
        let here = Filling { client, queue };
        let channel = link.channel().await?;
        let lock = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let name = short("the name of a queue", &format!("{queue}.lock"))?;
        let declare = channel.queue_declare(name.clone(), lock, FieldTable::default());
        match link.with_timeout(declare).await? {
            Ok(_) => Ok(Some(Self { link, channel, name, _here: here })),
            Err(error) if is_locked(&error) => Ok(None),
            Err(error) => Err(link.explain(error, Sent::Harmless)),
        }
    }

    async fn release(self) {
        if self.channel.status().connected() {
            let unlock = self.channel.queue_delete(self.name, QueueDeleteOptions::default());
            let _ = self.link.request(unlock, Sent::Harmless).await;
        }
    }
}

/// Fills the queue of a new group, whose lock this process has.
async fn fill_locked(
    client: &Arc<Client>,
    publisher: &Publisher,
    config: &EventConfig,
    spec: &ListenSpec,
    Lock { link, channel, .. }: &Lock<'_>,
) -> Result<()> {
    let group = spec.group.name();
    let queue = queue_of(config, &group);
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let mark = short("the name of a queue", &filling(&queue))?;
    let marked = channel.queue_declare(mark.clone(), durable, FieldTable::default());
    link.request(marked, Sent::Harmless).await?;
    // What an interrupted attempt has left, if anything.
    let delete =
        channel.queue_delete(short("the name of a queue", &queue)?, QueueDeleteOptions::default());
    link.request(delete, Sent::Harmless).await?;
    declare(link, channel, config, &group).await?;
    let mut places = Vec::new();
    for api in apis(spec) {
        let end = copy(client, publisher, config, spec, &api, None).await?;
        places.push((api, end));
    }
    bind_all(link, channel, config, spec).await?;
    // Events that were fired between the end of the copy and the binding.
    for (api, end) in places {
        copy(client, publisher, config, spec, &api, end).await?;
    }
    let delete = channel.queue_delete(mark, QueueDeleteOptions::default());
    link.request(delete, Sent::Harmless).await.map(drop)
}

fn apis(spec: &ListenSpec) -> Vec<Name> {
    let mut apis: Vec<Name> = spec.events.iter().map(|event| Name::clone(&event.api)).collect();
    apis.sort_unstable();
    apis.dedup();
    apis
}

/// Copies an API's past events into the group's queue, from this offset on or else as the listener asks.
/// Returns the offset after the last.
async fn copy(
    client: &Arc<Client>,
    publisher: &Publisher,
    config: &EventConfig,
    spec: &ListenSpec,
    api: &Name,
    from: Option<u64>,
) -> Result<Option<u64>> {
    let stream = history_of(config, api);
    let queue = queue_of(config, &spec.group.name());
    let Some(end) = history::mark(client, publisher, &stream).await? else {
        return Ok(None);
    };
    let since = match spec.start {
        Start::Since(since) => Some(since),
        _ => None,
    };
    let key = short("the name of a queue", &queue)?;
    let mut reader = Reader::open(client, &stream, from.unwrap_or(0)).await?;
    let mut batch = Vec::new();
    loop {
        let Entry { offset, raw } = reader.next().await?;
        let over = offset >= end;
        if !over && is_wanted(spec, &raw, since) {
            batch.push(Message {
                exchange: "".into(),
                key: key.clone(),
                mandatory: true,
                properties: raw.properties,
                body: raw.body,
            });
        }
        if batch.len() >= BATCH || (over && !batch.is_empty()) {
            let out = publisher.channel().await?;
            let messages = std::mem::take(&mut batch);
            for published in publisher.publish_all(&out, messages, publisher.deadline()).await {
                let published = match published {
                    Err(error) if error.kind() == ErrorKind::TooLarge => {
                        tracing::warn!(
                            %error, listener = queue,
                            "a past event is larger than RabbitMQ accepts now, and is left out"
                        );
                        continue;
                    }
                    published => published?,
                };
                if published.is_some() {
                    return Err(Error::new(ErrorKind::Unavailable, "the queue was deleted")
                        .with("queue", &queue));
                }
            }
        }
        if over {
            return Ok(Some(end + 1));
        }
    }
}

fn is_wanted(spec: &ListenSpec, raw: &super::codec::Raw, since: Option<SystemTime>) -> bool {
    let select = |api: &str, event: &str| wanted(&spec.events, api, event);
    match raw.read(0, select) {
        Read::Event(event) => since.is_none_or(|since| {
            event.time.is_some_and(|time| header::epoch_ms(time) >= header::epoch_ms(since))
        }),
        Read::Other | Read::Malformed(_) => false,
    }
}
