//! What a broker is asked for, and what it answers.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{Name, transport::Start};

/// A queue or topic of the broker.
///
/// `Display` shows `{kind}.{name}`, such as `events.shop-till`. It contains letters, digits, `-`, `_`
/// and that one dot, whatever the API is called ([`safe_name`](super::safe_name)).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Channel {
    /// What it carries.
    pub kind: ChannelKind,
    /// Its name among the channels of its kind, as a [safe name](super::safe_name).
    pub name: Name,
}

/// What a [`Channel`] carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    /// Calls of one API, for all of its workers. One group reads it, from the earliest message: a queue
    /// will do. A message that was acknowledged or whose time to live has ended may be deleted.
    Calls,
    /// Results for one process, which alone reads it, and subscribes before the first one is sent. A
    /// result that cannot be delivered may be dropped.
    Results,
    /// Events of one API. Any number of groups read it, each at a position of its own, which the broker
    /// keeps also while a group has no member.
    Events,
}

impl ChannelKind {
    /// The kind in lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Results => "results",
            Self::Events => "events",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind.as_str(), self.name)
    }
}

/// A place for values by key.
///
/// `Display` shows a name of letters, digits, `-`, `_` and at most one dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// Schemas, each with a time to live.
    Schemas,
    /// Dead letters of one group, named by a [safe name](super::safe_name).
    DeadLetters(Name),
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schemas => f.write_str("schemas"),
            Self::DeadLetters(group) => write!(f, "dead-letters.{group}"),
        }
    }
}

/// A message to be published.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    /// Where to.
    pub channel: Channel,
    /// What is in it: JSON in UTF-8, in the [wire form](super::wire). To a broker these are bytes.
    pub payload: Bytes,
    /// Events of one key stay in order. A broker that keeps order within a channel can ignore it.
    pub key: Option<Name>,
    /// After how long the message is of no use to anybody. The broker may delete it then, or ignore
    /// this: an expired call that is fetched all the same is dropped, not run.
    pub ttl: Option<Duration>,
}

impl Message {
    pub(super) fn new(channel: Channel, payload: Vec<u8>) -> Self {
        Self { channel, payload: payload.into(), key: None, ttl: None }
    }
}

/// A message that was fetched.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Received<T> {
    /// What the broker needs to settle it.
    pub token: T,
    /// The broker's id of it: for an event what [`publish`](super::Broker::publish) returned.
    pub id: Name,
    /// The payload, as it was published.
    pub payload: Bytes,
    /// When the broker stored it. `None`, the default, where the broker does not say: then there is no
    /// `history` and no [`Start::Since`].
    pub time: Option<SystemTime>,
    /// Which delivery to its group this is, counted from 1. 0, the default, where the broker does not
    /// count.
    pub attempt: u32,
    /// How long ago it was published, by the broker's clock. `None`, the default, where the broker does
    /// not say: the deadline of a call then depends on the clocks of caller and worker.
    pub age: Option<Duration>,
}

impl<T> Received<T> {
    /// A message about which the broker says no more.
    #[must_use]
    pub fn new(token: T, id: impl Into<Name>, payload: impl Into<Bytes>) -> Self {
        Self { token, id: id.into(), payload: payload.into(), time: None, attempt: 0, age: None }
    }
}

/// Who reads from a channel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsumerSpec {
    /// What to read.
    pub channel: Channel,
    /// The consumer group, as a [safe name](super::safe_name). Each message of the channel goes to one
    /// member of each group.
    pub group: Name,
    /// The process, as a [safe name](super::safe_name). It matters only with the capability `resumes`: a
    /// member that comes back under its name then gets at once what it held. Otherwise ignore it.
    pub process: Name,
    /// Where the group begins, if the broker does not know it yet. Always [`Start::Earliest`] for calls
    /// and [`Start::New`] for results. For events anything but [`Start::New`] comes only with the
    /// capability `replay`.
    pub start: Start,
}
