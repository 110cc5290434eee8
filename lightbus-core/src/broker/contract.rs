//! The two traits that a transport author implements.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::{Channel, ConsumerSpec, Message, Received, Store};
use crate::{
    Capabilities, Error, Name, Result,
    transport::{Lag, Start},
};

/// A connection to a broker that can publish, fetch, settle, and keep values by key.
///
/// With [`Factory<Self>`](super::Factory) it is a complete transport.
///
/// **Errors** need a kind and a reason; what was being done is added here. Return
/// [`Unavailable`](crate::ErrorKind::Unavailable) when the broker cannot be reached, with
/// [`Retry::MayDuplicate`](crate::Retry::MayDuplicate) if the request may have been carried out.
///
/// **Connecting.** An operation may come before [`connect`](Self::connect), and after it failed: it
/// connects when it has to. After a connection broke the next operation connects again. No task of your
/// own has to try: consumers ask again, with exponential backoff, for as long as they live.
///
/// **Limits.** An operation that does not end within [`TIMEOUT`](Self::TIMEOUT) is dropped, and fails
/// as `Unavailable`.
///
/// **Cancel safety.** Every future may be dropped. What it was doing may then be done or not.
#[async_trait]
pub trait Broker: Send + Sync + Sized + 'static {
    /// The name under which the configuration selects the transport, such as `nats`.
    const NAME: &'static str;

    /// How long an operation may take.
    const TIMEOUT: Duration = Duration::from_secs(5);

    /// How long a [`fetch`](Consumer::fetch) waits for the first message. Closing a subscription may
    /// take as long; up to two seconds are waited for. Longer where each request costs money.
    const FETCH_WAIT: Duration = Duration::from_millis(500);

    /// What may stand in the configuration below that name. It should have
    /// `#[serde(default, deny_unknown_fields)]`; a [`Secret`](crate::config_types::Secret) is never
    /// shown.
    type Config: DeserializeOwned + JsonSchema;

    /// Reads messages.
    type Consumer: Consumer;

    /// Makes a client from its options. Connects to nothing.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if the options cannot be meant.
    fn new(config: Self::Config) -> Result<Self>;

    /// Which broker this is, for people, without secrets: `127.0.0.1:4222`.
    fn address(&self) -> String;

    /// What the broker can do. Start from [`Capabilities::default`], which has nothing;
    /// `dead_letters` is added here. What is not declared is not asked for.
    fn capabilities(&self) -> Capabilities;

    /// After how long the broker redelivers a message that was fetched and not settled to another
    /// member of the group. A consumer then [renews](Consumer::renew) what it holds, three times as often.
    ///
    /// `None`, the default: the broker sees by itself when a member is gone, by its connection, and
    /// nothing has to be renewed.
    fn lease(&self) -> Option<Duration> {
        None
    }

    /// For how long a result waits for its caller.
    fn result_ttl(&self) -> Duration {
        Duration::from_secs(60)
    }

    /// Connects, unless it is connected, and checks that the broker answers.
    async fn connect(&self) -> Result<()>;

    /// Closes the connection. Called once, when the last transport that uses it closes.
    async fn close(&self) {}

    /// Stores messages, and returns the broker's id of each, in the same order, when the broker has
    /// confirmed them. The messages of one channel keep their order. The ids of calls and results are
    /// not read.
    ///
    /// # Errors
    ///
    /// [`TooLarge`](crate::ErrorKind::TooLarge) for a message that the broker's limits exclude. After an
    /// error any part of the messages may be stored.
    async fn publish(&self, messages: Vec<Message>) -> Result<Vec<Name>>;

    /// Joins a consumer group, and creates it at [`ConsumerSpec::start`] if the broker does not know it.
    /// When this returns, what is published from now on is not missed.
    async fn subscribe(&self, spec: ConsumerSpec) -> Result<Self::Consumer>;

    /// Stores a value, in place of one under the same key. Without `ttl` it stays until it is deleted.
    /// When this returns, every process sees it.
    async fn put(
        &self,
        store: &Store,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<()>;

    /// Returns the value of a key, unless its time to live has ended.
    async fn get(&self, store: &Store, key: &str) -> Result<Option<Bytes>>;

    /// Deletes a key, and returns whether it was there.
    async fn delete(&self, store: &Store, key: &str) -> Result<bool>;

    /// Returns all keys of a store whose time to live has not ended, in any order. A store that was
    /// never written to has none.
    async fn keys(&self, store: &Store) -> Result<Vec<Name>>;

    /// Lets a value live for another `ttl`, and returns whether it is there.
    ///
    /// The default reads the value and stores it again. Of two processes that do this with different
    /// values at the same moment the older value may win, until the next renewal. A broker that can
    /// extend a time to live does better.
    async fn renew(&self, store: &Store, key: &str, ttl: Duration) -> Result<bool> {
        match self.get(store, key).await? {
            Some(value) => self.put(store, key, value, Some(ttl)).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Returns messages of a channel of events, newest first, at most `limit`: those older than the
    /// message `before`, or from the newest on. No group is involved. Each has a
    /// [`time`](Received::time). Needed for the capability `history`.
    async fn history(
        &self,
        channel: &Channel,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Received<()>>> {
        let _ = (channel, before, limit);
        Err(Error::unsupported(Self::NAME, "reading the history of events"))
    }

    /// Returns how far a group is behind in a channel of events. A group or a channel that does not
    /// exist has no lag. Needed for the capability `lag`.
    async fn lag(&self, channel: &Channel, group: &str) -> Result<Lag> {
        let _ = (channel, group);
        Err(Error::unsupported(Self::NAME, "measuring the lag of a listener"))
    }

    /// Deletes a group of a channel of events, with its position. One that does not exist is no error.
    async fn forget(&self, channel: &Channel, group: &str) -> Result<()> {
        let _ = (channel, group);
        Err(Error::unsupported(Self::NAME, "forgetting a listener"))
    }

    /// Returns whether a group of a channel of events exists. By default it does. A dead letter whose
    /// group is gone stays a dead letter when it is requeued; where this cannot be known, it is lost.
    async fn has_group(&self, channel: &Channel, group: &str) -> Result<bool> {
        let _ = (channel, group);
        Ok(true)
    }
}

/// A member of a consumer group of one channel.
///
/// [`fetch`](Self::fetch) runs at most once at a time, and at the same time as the other methods. It
/// lives as long as its subscription does, over any number of connections: after a temporary error it
/// is asked again.
#[async_trait]
pub trait Consumer: Send + Sync + 'static {
    /// What the broker needs to settle a message: a subject to reply to, a receipt, the id of a row.
    type Token: Clone + Send + Sync + 'static;

    /// Waits for messages, and takes at most `max`. Returns as soon as there is one, and with none
    /// after `wait`, which is [`Broker::FETCH_WAIT`].
    ///
    /// What was taken is this member's until it is settled, or until the [lease](Broker::lease) ends.
    ///
    /// # Cancel safety
    ///
    /// Dropped only when the transport is closed, or when it takes much longer than `wait`. Messages
    /// that were on their way are then redelivered when their lease ends, and calls are lost.
    async fn fetch(&self, max: usize, wait: Duration) -> Result<Vec<Received<Self::Token>>>;

    /// Marks messages as handled, when the broker has confirmed it: none of them is delivered to this
    /// group again. Tokens that the broker does not know any more are ignored.
    async fn ack(&self, tokens: Vec<Self::Token>) -> Result<()>;

    /// Returns messages to the group, for any member, at once, and in their original order if the
    /// broker can. Tokens that the broker does not know any more are ignored.
    ///
    /// Only for events, and for results never: a call is acknowledged before it is handed out.
    async fn release(&self, tokens: Vec<Self::Token>) -> Result<()>;

    /// Extends the lease of messages that this member holds. Called only if the broker has a
    /// [lease](Broker::lease). Tokens that the broker does not know any more are ignored.
    async fn renew(&self, tokens: Vec<Self::Token>) -> Result<()> {
        let _ = tokens;
        Ok(())
    }

    /// Leaves the group, which stays. Called once, last; what is held was released before.
    async fn close(&self) {}
}

/// Whether a broker may be asked for this start.
pub(super) fn check_start(name: &str, capabilities: Capabilities, start: Start) -> Result<()> {
    match start {
        Start::Earliest | Start::Since(_) if !capabilities.replay => {
            Err(Error::unsupported(name, "starting in the past"))
        }
        _ => Ok(()),
    }
}
