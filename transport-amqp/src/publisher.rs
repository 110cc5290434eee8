//! Publishes with confirms, many messages at a time, on one channel; large messages on another.
//!
//! RabbitMQ closes the channel on which a message is too large, and whatever was in flight on it is then
//! in doubt: stored, perhaps, and never confirmed. So messages are measured first ([`Limits::check`]), and
//! those whose limit may not be known yet have a channel of their own, which is opened for the first.
//! A batch keeps its order across both: it is cut where it changes from one channel to the other, and
//! each part waits for the confirms of the part before it. Held by tests/transport/sizes.rs.
//!
//! [`Limits::check`]: crate::limits::Limits::check

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use lapin::{
    BasicProperties, Channel, Confirmation,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use lightbus_core::{Error, ErrorKind, Result, Retry, time::deadline_after};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use crate::{
    client::Client,
    error::{Sent, answer, is_missing},
    limits::{LARGE, Oversized},
    link::Link,
};

/// The most unconfirmed messages, in KiB; further callers wait.
const ROOM: usize = 64 << 10;
/// The least that a message counts for: at most 8192 messages are in flight.
const SMALLEST: usize = ROOM / 8192;
/// The most messages that are published at once.
const BATCH: usize = 512;
/// Without confirms, one in so many messages waits until it is written to the connection.
const UNWRITTEN: u32 = 32;
/// How long a channel is kept at least, even if messages on it are refused.
///
/// A channel remembers the leader of a quorum queue from its first message to it. If that node has died
/// since, RabbitMQ 3.10 refuses all further messages of the channel to the queue, for ever; a new channel
/// finds the new leader (see rabbitmq-server pull request 9241). A full queue refuses on any channel, and
/// a new channel each second costs little.
const REFUSED_FOR: Duration = Duration::from_secs(1);
/// After this many abandoned confirms, the client library is made to forget them.
const ABANDONED: u32 = 256;

/// An encoded message.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) exchange: ShortString,
    pub(crate) key: ShortString,
    /// Whether the broker returns it if no queue receives it.
    pub(crate) mandatory: bool,
    pub(crate) properties: BasicProperties,
    pub(crate) body: Bytes,
}

impl Message {
    /// Returns its approximate size in KiB.
    fn cost(&self) -> usize {
        (self.body.len() >> 10).max(SMALLEST)
    }

    fn is_large(&self) -> bool {
        self.body.len() > LARGE
    }
}

/// The outcome of publishing: `None` if the message is stored, or the message that the broker returned
/// because no queue received it.
pub(crate) type Published = Option<BasicReturnMessage>;

/// Publishes on channels of its own, which are replaced when they break.
pub(crate) struct Publisher {
    client: Arc<Client>,
    room: Semaphore,
    usual: Lane,
    /// For large messages. Always confirmed.
    large: Lane,
}

/// A channel, once it is needed.
struct Lane {
    confirms: bool,
    out: Mutex<Option<Arc<PublishChannel>>>,
    /// Locked while a channel is opened.
    opening: tokio::sync::Mutex<()>,
}

/// A channel to publish on, and what was declared on it.
pub(crate) struct PublishChannel {
    pub(crate) link: Arc<Link>,
    pub(crate) channel: Channel,
    known: Mutex<HashSet<Box<str>>>,
    confirms: bool,
    /// How many messages were published.
    count: AtomicU32,
    abandoned: AtomicU32,
    opened: Instant,
    /// Set when a new channel is needed. This one closes when its users are done.
    retired: AtomicBool,
}

impl Lane {
    fn new(confirms: bool) -> Self {
        Self { confirms, out: Mutex::new(None), opening: tokio::sync::Mutex::new(()) }
    }

    /// Returns the channel, and opens it if need be.
    async fn channel(&self, client: &Client) -> Result<Arc<PublishChannel>> {
        if let Some(out) = self.live() {
            return Ok(out);
        }
        let _turn = self.opening.lock().await;
        if let Some(out) = self.live() {
            return Ok(out);
        }
        let link = client.sends().await?;
        let channel = link.channel().await?;
        if self.confirms {
            let select = channel.confirm_select(ConfirmSelectOptions::default());
            link.request(select, Sent::No).await?;
        }
        let out = Arc::new(PublishChannel {
            link,
            channel,
            known: Mutex::default(),
            confirms: self.confirms,
            count: AtomicU32::new(0),
            abandoned: AtomicU32::new(0),
            opened: Instant::now(),
            retired: AtomicBool::new(false),
        });
        *self.state() = Some(Arc::clone(&out));
        Ok(out)
    }

    fn live(&self) -> Option<Arc<PublishChannel>> {
        let state = self.state();
        state.as_ref().filter(|out| out.is_alive()).map(Arc::clone)
    }

    /// Whether it had a channel, which is closed.
    fn is_lost(&self) -> bool {
        self.state().as_ref().is_some_and(|out| !out.is_alive())
    }

    fn state(&self) -> MutexGuard<'_, Option<Arc<PublishChannel>>> {
        // Nothing panics while it is locked.
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher {
    /// Returns a publisher with confirms: `publish` returns when the message is stored.
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self::with_confirms(client, true)
    }

    /// Returns a publisher without confirms, except for large messages: `publish` returns when the message
    /// is handed to the connection.
    pub(crate) fn unconfirmed(client: Arc<Client>) -> Self {
        Self::with_confirms(client, false)
    }

    fn with_confirms(client: Arc<Client>, confirms: bool) -> Self {
        let (usual, large) = (Lane::new(confirms), Lane::new(true));
        Self { client, room: Semaphore::new(ROOM), usual, large }
    }

    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Returns the deadline of a request that begins now.
    pub(crate) fn deadline(&self) -> Instant {
        deadline_after(self.client.response_timeout())
    }

    /// Returns the channel to publish on, and opens it if need be.
    pub(crate) async fn channel(&self) -> Result<Arc<PublishChannel>> {
        self.usual.channel(&self.client).await
    }

    /// Whether a channel that was used is closed.
    pub(crate) fn channel_is_lost(&self) -> bool {
        self.usual.is_lost() || self.large.is_lost()
    }

    /// Lets go of the channels.
    pub(crate) fn close(&self) {
        drop(self.usual.state().take());
        drop(self.large.state().take());
    }

    /// Publishes a message.
    pub(crate) async fn publish(
        &self,
        out: &PublishChannel,
        message: Message,
        deadline: Instant,
    ) -> Result<Published> {
        let _room = self.room(out, message.cost(), deadline).await?;
        if message.is_large() {
            return self.large_channel(out, deadline).await?.publish(message, deadline).await;
        }
        out.publish(message, deadline).await
    }

    /// Publishes messages in order, and returns the outcome of each. After a message that may be published
    /// again, none is published that must follow it.
    pub(crate) async fn publish_all(
        &self,
        out: &PublishChannel,
        messages: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Published>> {
        let mut results: Vec<Result<Published>> = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter().peekable();
        while let Some(first) = messages.next() {
            let large = first.is_large();
            let mut batch = vec![first];
            while batch.len() < BATCH
                && let Some(next) = messages.next_if(|next| next.is_large() == large)
            {
                batch.push(next);
            }
            let from = results.len();
            results.extend(self.publish_batch(out, large, batch, deadline).await);
            let mut failed = results[from..].iter().filter_map(|result| result.as_ref().err());
            if let Some(error) = failed.rfind(|error| error.is_temporary()) {
                let error = error.clone().retry(Retry::Safe);
                results.extend(messages.map(|_| Err(error.clone())));
                return results;
            }
        }
        results
    }

    /// Publishes messages that are all large, or none.
    async fn publish_batch(
        &self,
        out: &PublishChannel,
        large: bool,
        batch: Vec<Message>,
        deadline: Instant,
    ) -> Vec<Result<Published>> {
        let count = batch.len();
        let ready = async {
            let cost = batch.iter().map(Message::cost).sum::<usize>().min(ROOM);
            let room = self.room(out, cost, deadline).await?;
            let channel = if large { Some(self.large_channel(out, deadline).await?) } else { None };
            Ok((room, channel))
        };
        let (_room, channel) = match ready.await {
            Ok(ready) => ready,
            Err(error) => return (0..count).map(|_| Err(Error::clone(&error))).collect(),
        };
        let out = channel.as_deref().unwrap_or(out);
        // Each is handed to the client library at its first poll, which keeps their order.
        join_all(batch.into_iter().map(|message| out.publish(message, deadline))).await
    }

    async fn large_channel(
        &self,
        out: &PublishChannel,
        deadline: Instant,
    ) -> Result<Arc<PublishChannel>> {
        match timeout_at(deadline, self.large.channel(&self.client)).await {
            Ok(channel) => channel,
            Err(_) => Err(out.link.no_answer().retry(Retry::Safe)),
        }
    }

    /// Waits for room, and until the broker accepts messages.
    async fn room(
        &self,
        out: &PublishChannel,
        cost: usize,
        deadline: Instant,
    ) -> Result<tokio::sync::SemaphorePermit<'_>> {
        let cost = u32::try_from(cost.min(ROOM)).unwrap_or(u32::MAX);
        // The common case, without a timer.
        if let Ok(room) = self.room.try_acquire_many(cost)
            && out.link.blocked_reason().is_none()
        {
            return Ok(room);
        }
        let room = match timeout_at(deadline, self.room.acquire_many(cost)).await {
            Ok(Ok(room)) => room,
            Ok(Err(_)) => return Err(Error::closed("the connection")),
            Err(_) if out.link.blocked_reason().is_some() => {
                return Err(out.link.blocked_error());
            }
            Err(_) => return Err(out.link.no_answer().retry(Retry::Safe)),
        };
        out.link.unblocked(deadline).await?;
        Ok(room)
    }
}

impl PublishChannel {
    pub(crate) fn is_alive(&self) -> bool {
        self.link.is_alive()
            && self.channel.status().connected()
            && !self.retired.load(Ordering::Relaxed)
    }

    /// Whether this was declared on this channel.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.known().contains(name)
    }

    pub(crate) fn learn(&self, name: &str) {
        self.known().insert(name.into());
    }

    pub(crate) fn forget(&self, name: &str) {
        self.known().remove(name);
    }

    fn known(&self) -> MutexGuard<'_, HashSet<Box<str>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish(&self, message: Message, deadline: Instant) -> Result<Published> {
        self.link.limits().check(&message.properties, message.body.len())?;
        if !self.channel.status().connected() {
            return Err(Error::new(ErrorKind::Unavailable, "RabbitMQ has closed the channel")
                .with("broker", format_args!("rabbitmq {}", self.link.broker())));
        }
        let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
        let Message { exchange, key, properties, body, .. } = message;
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        if !self.confirms && !count.is_multiple_of(UNWRITTEN) {
            // The client library takes it at the first poll. Only one in `UNWRITTEN` waits until it is
            // written, which bounds their number.
            let handed_over = self
                .channel
                .basic_publish(exchange, key, options, &body, properties)
                .now_or_never();
            return match handed_over {
                None | Some(Ok(_)) => Ok(None),
                Some(Err(error)) => Err(self.link.explain(error, Sent::No)),
            };
        }
        let mut waited = Waited { out: self, over: false };
        let publish = async {
            self.channel.basic_publish(exchange, key, options, &body, properties).await?.await
        };
        let published = timeout_at(deadline, publish).await;
        waited.over = published.is_ok();
        match published {
            Ok(Ok(Confirmation::Ack(returned))) => Ok(returned),
            Ok(Ok(Confirmation::NotRequested)) => Ok(None),
            Ok(Ok(Confirmation::Nack(_))) => {
                if self.opened.elapsed() > REFUSED_FOR {
                    self.retired.store(true, Ordering::Relaxed);
                }
                Err(Error::new(
                    ErrorKind::Unavailable,
                    "RabbitMQ refused the message: the queue is full, or has no leader now",
                ))
            }
            Ok(Err(error)) => Err(self.failed(error, body.len())),
            Err(_) if self.link.blocked_reason().is_some() => {
                Err(self.link.blocked_error().retry(Retry::MayDuplicate))
            }
            Err(_) => Err(self.link.no_answer()),
        }
    }

    /// Returns the error of a message that was in flight when the channel or the connection ended.
    fn failed(&self, error: lapin::Error, body: usize) -> Error {
        let oversized = match answer(&error) {
            Some((_, text)) => Oversized::read(text),
            None => {
                // A channel may end alone: whatever else the connection carries goes on.
                if !matches!(error.kind(), lapin::ErrorKind::InvalidChannelState(..)) {
                    self.link.mark_broken();
                }
                None
            }
        };
        match oversized {
            Some(refusal) => self
                .link
                .limits()
                .refused(body, refusal)
                .with("broker", format_args!("rabbitmq {}", self.link.broker()))
                .because(error),
            // Of messages before it was deleted, some may be stored.
            None if is_missing(&error) => Error::new(
                ErrorKind::Unavailable,
                "the exchange to which the message was published was deleted",
            )
            .retry(Retry::MayDuplicate)
            .with("broker", format_args!("rabbitmq {}", self.link.broker()))
            .because(error),
            None => self.link.explain(error, Sent::Maybe),
        }
    }
}

/// Counts a confirm that was abandoned: the client library keeps it until it is asked for all.
struct Waited<'a> {
    out: &'a PublishChannel,
    over: bool,
}

impl Drop for Waited<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let abandoned = self.out.abandoned.fetch_add(1, Ordering::Relaxed) + 1;
        if abandoned.is_multiple_of(ABANDONED)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let channel = self.out.channel.clone();
            runtime.spawn(async move { channel.wait_for_confirms().await.map(drop) });
        }
    }
}
