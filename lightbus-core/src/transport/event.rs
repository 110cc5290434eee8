//! Events: from whoever fires them to every listener.

use std::time::SystemTime;

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use super::Transport;
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
    /// The service that listens.
    pub service: Name,
    /// The listener's name within its service. All processes that listen under the same service
    /// and listener name are one consumer group and share the events.
    pub listener: Name,
    /// The process that listens: the consumer in the group. A process that comes back under its
    /// old name gets at once what it had taken and not settled.
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

/// Which listener to ask about.
#[derive(Clone, Debug)]
pub struct LagSpec {
    /// The service that listens.
    pub service: Name,
    /// The listener's name within its service.
    pub listener: Name,
    /// What it listens to.
    pub events: Vec<EventSelector>,
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

/// An event that was set aside because it could not be handled.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// What the broker calls the dead letter.
    pub id: Name,
    /// The event as it was, so far as it could be read.
    pub event: EventMessage,
    /// The consumer group that could not handle it.
    pub group: Name,
    /// Why.
    pub reason: String,
    /// How often it was tried: within the last delivery as often as the listener says
    /// ([`Rejection::attempts`](crate::Rejection::attempts)), and once for each delivery before, where
    /// the broker counts them (case `a_rejected_delivery_never_comes_again`).
    pub attempts: u32,
    /// When it was set aside.
    pub time: SystemTime,
}

/// Carries events to all listeners.
#[async_trait]
pub trait EventTransport: Transport {
    /// Sends events, and gives back what the broker calls each, in the same order.
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
    /// Per stream, as sent, while nothing has to come again.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for an empty list of events;
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the broker is away now. Once it stands it
    /// reconnects by itself (case `a_listener_survives_a_broker_restart`). An event that nobody ever
    /// fires is no error.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the group may exist already.
    ///
    /// # Implementing
    ///
    /// Return [`Subscription::spawn`] over a [`Source`](crate::Source). Settle with
    /// [`Outcome::Done`](crate::Outcome) what the listener did not ask for and was in the stream all the same. Set
    /// aside what cannot be read, and go on (case `a_malformed_event_is_set_aside`).
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

    /// How far a group is behind. A group that does not exist has no lag.
    ///
    /// # Errors
    ///
    /// `Unsupported` without the capability `lag`.
    async fn lag(&self, spec: LagSpec) -> Result<Lag> {
        let _ = spec;
        Err(Error::unsupported(self.name(), "measuring the lag of a listener"))
    }

    /// What a group set aside, oldest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// `Unsupported` without the capability `dead_letters`.
    async fn dead_letters(
        &self,
        service: &str,
        listener: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let _ = (service, listener, limit);
        Err(Error::unsupported(self.name(), "reading dead letters"))
    }

    /// What a group set aside after the dead letter of this id, oldest first, at most `limit`:
    /// the next page. That letter itself may be gone (case `dead_letters_are_read_page_by_page`).
    ///
    /// # Errors
    ///
    /// `Unsupported` unless the transport can read dead letters page by page.
    async fn dead_letters_after(
        &self,
        service: &str,
        listener: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let _ = (service, listener, after, limit);
        Err(Error::unsupported(self.name(), "reading dead letters page by page"))
    }

    /// Removes dead letters of a group by their ids, for ever. Gives how many there were; ids that
    /// it does not have are no error (case `dead_letters_are_removed_one_by_one`).
    ///
    /// # Errors
    ///
    /// `Unsupported` unless the transport can remove dead letters one by one.
    ///
    /// # Cancel safety
    ///
    /// Dropped, any of them may be removed.
    async fn remove_dead_letters(
        &self,
        service: &str,
        listener: &str,
        ids: &[Name],
    ) -> Result<usize> {
        let _ = (service, listener, ids);
        Err(Error::unsupported(self.name(), "removing dead letters"))
    }

    /// Gives dead letters back to the group that set them aside, by their ids: each is an event of that
    /// group again, as it was fired, and no dead letter any more. Gives how many there were; ids that
    /// it does not have are no error.
    ///
    /// # Delivery
    ///
    /// At least once, and to no other group (case
    /// `a_retried_dead_letter_comes_again_to_its_group_alone`): each is put back, which the broker
    /// confirms, and only then removed. The group gets it when a member listens, with its attempts
    /// counted anew.
    ///
    /// # Ordering
    ///
    /// In its old place where the broker can put it there, otherwise after what waits.
    ///
    /// # Errors
    ///
    /// `Unsupported` unless the transport can give dead letters back;
    /// [`Unknown`](crate::ErrorKind::Unknown) if the broker has the event, or the group, no more: that
    /// letter stays. Others of the same call may have been given back.
    ///
    /// # Cancel safety
    ///
    /// Dropped, any of them may be given back, and still be a dead letter too.
    async fn requeue_dead_letters(
        &self,
        service: &str,
        listener: &str,
        ids: &[Name],
    ) -> Result<usize> {
        let _ = (service, listener, ids);
        Err(Error::unsupported(self.name(), "giving dead letters back"))
    }

    /// Forgets a listener that never comes back: its group, how far it was, and what waits for it.
    /// What it set aside may go with it. A group that does not exist is no error (case
    /// `a_forgotten_listener_begins_anew`).
    ///
    /// # Errors
    ///
    /// `Unsupported` unless the transport can.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may be forgotten.
    async fn forget(&self, spec: LagSpec) -> Result<()> {
        let _ = spec;
        Err(Error::unsupported(self.name(), "forgetting a listener"))
    }
}

impl ListenSpec {
    /// The name of the consumer group: `{service}-{listener}`, as Python's Lightbus names it.
    #[must_use]
    pub fn group(&self) -> Name {
        group_name(&self.service, &self.listener)
    }

    /// Whether the listener asked for this event.
    #[must_use]
    pub fn wants(&self, api: &str, event: &str) -> bool {
        self.events.iter().any(|selector| selector.selects(api, event))
    }
}

impl LagSpec {
    /// The name of the consumer group: `{service}-{listener}`.
    #[must_use]
    pub fn group(&self) -> Name {
        group_name(&self.service, &self.listener)
    }
}

fn group_name(service: &str, listener: &str) -> Name {
    format!("{service}-{listener}").into()
}
