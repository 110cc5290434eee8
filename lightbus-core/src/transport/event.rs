//! Events: from whoever fires them to every listener.

use std::time::SystemTime;

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use super::{DeadLetters, GroupSpec, Transport};
use crate::{Error, EventMessage, FlowControl, Name, Result, Subscription};

/// An event of an API, or all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventSelector {
    /// The API, by its full dotted name.
    pub api: Name,
    /// The event; `None` is every event of the API.
    pub event: Option<Name>,
}

impl EventSelector {
    /// One event.
    #[must_use]
    pub fn one(api: impl Into<Name>, event: impl Into<Name>) -> Self {
        Self { api: api.into(), event: Some(event.into()) }
    }

    /// Every event of an API.
    #[must_use]
    pub fn all(api: impl Into<Name>) -> Self {
        Self { api: api.into(), event: None }
    }

    /// Whether the event is among those selected.
    #[must_use]
    pub fn selects(&self, api: &str, event: &str) -> bool {
        &*self.api == api && self.event.as_deref().is_none_or(|name| name == event)
    }
}

/// Where a listener that the broker does not know yet begins. One that it knows goes on where it
/// was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With what is sent from now on.
    #[default]
    New,
    /// With the oldest event that the broker has.
    Earliest,
    /// With the first event not older than this.
    Since(SystemTime),
}

/// What a listener wants.
#[derive(Clone, Debug)]
pub struct ListenSpec {
    /// The consumer group to join.
    pub group: GroupSpec,
    /// The process that listens: the consumer in the group, where the broker gives consumers names.
    /// With the capability `resumes`, a process that comes back under its old name gets at once what it
    /// held and had not settled (case `a_process_gets_its_own_events_back_first`). A transport without
    /// it ignores this name.
    pub process: Name,
    /// What to listen to; not empty. All in one group.
    pub events: Vec<EventSelector>,
    /// Where to begin, if the group is new.
    pub start: Start,
    /// How much to take at once.
    pub flow: FlowControl,
}

/// Which past events to read.
#[derive(Clone, Debug)]
pub struct HistorySpec {
    /// What to read.
    pub events: EventSelector,
    /// Not older than this.
    pub from: Option<SystemTime>,
    /// Not newer than this.
    pub until: Option<SystemTime>,
}

/// How far a listener is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Entries that the group has not taken yet. Counted by the broker in streams: where a stream
    /// holds other events too, they count.
    pub waiting: u64,
    /// Entries that a process of the group has taken and not acknowledged.
    pub pending: u64,
}

/// Carries events to all listeners.
#[async_trait]
pub trait EventTransport: Transport {
    /// Sends events, and returns what the broker calls each, in the same order.
    ///
    /// # Delivery
    ///
    /// At least once. `Ok` means that the broker has stored all of them as the capability
    /// `durable` says (case `sent_events_survive_the_sender`).
    ///
    /// # Ordering
    ///
    /// The order of the slice is kept within each stream, if the capability `ordered` says so
    /// (case `a_batch_keeps_its_order`).
    ///
    /// # Errors
    ///
    /// On an error any part of them may have been stored: [`Retry::MayDuplicate`](crate::Retry).
    /// Sent again under the same ids, a listener can tell. By itself a transport sends again at most
    /// what a lost connection left in doubt, under the same ids; its documentation says so.
    ///
    /// # Cancel safety
    ///
    /// Dropped, any part of them may be stored.
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>>;

    /// Listens, as a member of the consumer group `{service}-{listener}`.
    ///
    /// # Delivery
    ///
    /// At least once per group: each event goes to one member, and again to this or another member
    /// until one has settled it as done (cases `every_listener_gets_every_event`,
    /// `one_listener_name_shares_the_events`, `a_dropped_delivery_comes_again`,
    /// `a_done_delivery_never_comes_again`). When `listen` returns, nothing sent later is missed
    /// (case `listen_then_send_misses_nothing`). What a dead process left is taken over after the
    /// transport's acknowledgement timeout.
    ///
    /// # Ordering
    ///
    /// Per stream, as sent, while nothing is redelivered.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for an empty list of events;
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the broker is away now. Once it stands it
    /// reconnects by itself (case `a_listener_survives_a_broker_restart`). An event that no process ever
    /// fires is no error.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the group may exist already.
    ///
    /// # Implementing
    ///
    /// Return [`Subscription::spawn`] over a [`Source`](crate::Source), or over a
    /// [`Merge`](crate::Merge) of several. Set [`EventMessage::native_id`], and with the capability
    /// `replay` or `history` [`EventMessage::time`]. Settle with [`Outcome::Done`](crate::Outcome) the
    /// events of the stream that the listener did not ask for. Dead-letter what cannot be read, and go on
    /// (case `a_malformed_event_is_set_aside`).
    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>>;

    /// Past events, newest first, without regard to any group.
    ///
    /// # Errors
    ///
    /// `Unsupported` without the capability `history`. An item is an error if the broker fails on
    /// the way; the stream then ends.
    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let _ = spec;
        Err(Error::unsupported(self.name(), "reading the history of events"))
    }

    /// Returns how far a group is behind with these events. A group that does not exist has no lag.
    ///
    /// # Errors
    ///
    /// `Unsupported` without the capability `lag`.
    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        let _ = (group, events);
        Err(Error::unsupported(self.name(), "measuring the lag of a listener"))
    }

    /// Returns how many events wait that this transport's own subscription to them could take now. The
    /// bus restarts a listener that takes none of them. Fewer than the group's [`lag`](Self::lag) where
    /// the broker keeps events for other processes of the group, such as those of their partitions.
    ///
    /// # Errors
    ///
    /// Those of [`lag`](Self::lag).
    async fn waiting_here(&self, spec: &ListenSpec) -> Result<u64> {
        Ok(self.lag(&spec.group, &spec.events).await?.waiting)
    }

    /// Deletes a listener's consumer group from the broker, with its position in these events and
    /// its backlog. Its dead letters may be deleted too. A group that does not exist is no error
    /// (case `a_forgotten_listener_begins_anew`).
    ///
    /// # Errors
    ///
    /// `Unsupported` unless the transport can.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the group may have been deleted.
    async fn forget(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<()> {
        let _ = (group, events);
        Err(Error::unsupported(self.name(), "forgetting a listener"))
    }

    /// Access to the dead letters: `Some` exactly with the capability `dead_letters`.
    ///
    /// A caller that cannot do without uses
    /// [`require_dead_letters`](#method.require_dead_letters).
    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        None
    }
}

impl dyn EventTransport + '_ {
    /// As [`dead_letters`](EventTransport::dead_letters), for callers that cannot do without.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](crate::ErrorKind::Unsupported), naming the transport, if it has none.
    pub fn require_dead_letters(&self) -> Result<&dyn DeadLetters> {
        self.dead_letters().ok_or_else(|| Error::unsupported(self.name(), "keeping dead letters"))
    }
}

impl ListenSpec {
    /// Returns whether the listener asked for this event.
    #[must_use]
    pub fn wants(&self, api: &str, event: &str) -> bool {
        self.events.iter().any(|selector| selector.selects(api, event))
    }
}
