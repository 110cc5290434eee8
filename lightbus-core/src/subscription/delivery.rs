//! One message in a consumer's hands, and the handle that settles it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    Outcome,
    session::{AtWork, Session},
    slots::Slot,
};
use crate::{Error, Result};

/// A message that was handed out, to be settled by [`ack`](Self::ack).
pub struct Delivery<M> {
    /// The message.
    pub message: Arc<M>,
    /// Settles it. Dropped, the message is redelivered (a call is not).
    pub ack: AckHandle,
}

impl<M> Delivery<M> {
    /// As [`AckHandle::is_suspect`].
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.ack.suspect
    }

    /// As [`AckHandle::begin`]; `None` if the message must not be handled.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the message is redelivered.
    pub async fn begin(mut self) -> Option<Self> {
        self.ack.begin().await.then_some(self)
    }
}

impl<M: fmt::Debug> fmt::Debug for Delivery<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("message", &self.message).finish_non_exhaustive()
    }
}

/// Settles one delivery, once: settling takes the handle. Dropping it is [`Outcome::Retry`].
pub struct AckHandle {
    slot: usize,
    driver: Option<Arc<DriverHandle>>,
    session: Option<Session>,
    suspect: bool,
    begun: bool,
    at_work: Option<AtWork>,
    held_back: bool,
}

/// The driver as its deliveries see it.
pub(super) struct DriverHandle {
    pub(super) settlements: mpsc::Sender<Settlement>,
    /// Deliveries that are [held back](AckHandle::hold_back).
    pub(super) held_back: AtomicUsize,
    /// Rung when that number grows.
    pub(super) room: Notify,
}

pub(super) struct Settlement {
    pub(super) slot: usize,
    pub(super) fate: Fate,
    pub(super) confirm: Option<oneshot::Sender<Result<()>>>,
    /// Dropped when the broker knows.
    pub(super) at_work: Option<AtWork>,
}

pub(super) enum Fate {
    /// Not settled: work on it begins.
    Begun(oneshot::Sender<Result<bool>>),
    Settled(Outcome),
    /// The handle was dropped: somebody had the message and did not say.
    Dropped,
    /// Nobody has seen the message.
    Unseen,
    /// The broker has given the message to another: there is nothing to settle.
    Gone,
}

impl DriverHandle {
    /// And what settlements come by.
    pub(super) fn new(max_in_flight: usize) -> (Arc<Self>, mpsc::Receiver<Settlement>) {
        // Each delivery in flight may begin, and be settled.
        let (settlements, receiver) = mpsc::channel(max_in_flight.saturating_mul(2));
        let handle = Self { settlements, held_back: AtomicUsize::new(0), room: Notify::new() };
        (Arc::new(handle), receiver)
    }
}

impl AckHandle {
    pub(super) fn new<M, T>(index: usize, slot: &Slot<M, T>, driver: Arc<DriverHandle>) -> Self {
        Self {
            slot: index,
            driver: Some(driver),
            session: slot.session.clone(),
            suspect: slot.suspect,
            begun: slot.begun,
            at_work: None,
            held_back: false,
        }
    }

    /// Whether the message may have ended the processes that had it: at least two deliveries of it came to
    /// nothing. It is best handled with nothing beside it.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Says that work on the message begins. Returns `false` if it must not, and then the handle is of
    /// no use any more: the broker has taken the message back and delivers it again, or it could not be
    /// told, and the message is redelivered here later.
    ///
    /// Where the message is a [suspect](Self::is_suspect) and the broker does not count
    /// deliveries by itself, the transport counts them here, so that only messages whose handling
    /// was begun count up.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may have begun.
    pub async fn begin(&mut self) -> bool {
        if let (Some(session), None) = (&self.session, &self.at_work) {
            self.at_work = session.begin();
            if self.at_work.is_none() {
                self.send(Fate::Gone, None);
                return false;
            }
        }
        if !self.suspect || self.begun {
            return true;
        }
        match self.note_begin().await {
            Ok(true) => self.begun = true,
            // Another has it: nothing is to be settled.
            Ok(false) => self.send(Fate::Gone, None),
            Err(_) => self.send(Fate::Dropped, None),
        }
        self.begun
    }

    /// Says that the message waits for something, such as its next try: meanwhile another may be
    /// taken in the place of it, as far as [`FlowControl::max_in_flight`](crate::FlowControl) allows. The
    /// broker may take it back meanwhile. Not for one that was handled and is about to be settled.
    pub fn hold_back(&mut self) {
        if let (Some(driver), false) = (&self.driver, self.held_back) {
            self.held_back = true;
            self.at_work = None;
            driver.held_back.fetch_add(1, Ordering::Relaxed);
            driver.room.notify_one();
        }
    }

    /// Says that the message is worked on again after [`hold_back`](Self::hold_back). Returns `false` if
    /// it must not, because the broker has taken it back meanwhile: then the handle is of no use any more.
    #[must_use]
    pub fn go_on(&mut self) -> bool {
        if !self.held_back {
            return self.driver.is_some();
        }
        self.count_as_held();
        if let (Some(session), None) = (&self.session, &self.at_work) {
            self.at_work = session.begin();
            if self.at_work.is_none() {
                self.send(Fate::Gone, None);
                return false;
            }
        }
        self.driver.is_some()
    }

    /// Takes back the place that another may have taken.
    fn count_as_held(&mut self) {
        if let (Some(driver), true) = (&self.driver, self.held_back) {
            self.held_back = false;
            driver.held_back.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Settles, and waits until the broker has taken it.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the subscription ended before: the message comes again.
    ///
    /// # Cancel safety
    ///
    /// Once polled, it is settled also if dropped.
    pub async fn settle(mut self, outcome: Outcome) -> Result<()> {
        let (confirm, confirmed) = oneshot::channel();
        self.send(Fate::Settled(outcome), Some(confirm));
        confirmed.await.unwrap_or_else(|_| Err(Error::closed("the subscription")))
    }

    /// Settles together with others, as soon as the broker is free. What fails then is tried again
    /// until the subscription closes.
    pub fn settle_later(mut self, outcome: Outcome) {
        self.send(Fate::Settled(outcome), None);
    }

    pub(super) fn unseen(mut self) {
        self.send(Fate::Unseen, None);
    }

    /// Has the source note that work on the message begins, and waits until it has.
    async fn note_begin(&self) -> Result<bool> {
        let closed = || Error::closed("the subscription");
        let driver = self.driver.as_ref().ok_or_else(closed)?;
        let (confirm, confirmed) = oneshot::channel();
        let (slot, fate) = (self.slot, Fate::Begun(confirm));
        let begun = Settlement { slot, fate, confirm: None, at_work: None };
        driver.settlements.try_send(begun).map_err(|_| closed())?;
        confirmed.await.unwrap_or_else(|_| Err(closed()))
    }

    fn send(&mut self, fate: Fate, confirm: Option<oneshot::Sender<Result<()>>>) {
        self.count_as_held();
        if let Some(driver) = self.driver.take() {
            // Never full: it has room for the beginning and the settlement of each delivery in
            // flight. Closed: the subscription has ended and has given the message back.
            let at_work = self.at_work.take();
            let settlement = Settlement { slot: self.slot, fate, confirm, at_work };
            let _ = driver.settlements.try_send(settlement);
        }
    }
}

impl Drop for AckHandle {
    fn drop(&mut self) {
        self.send(Fate::Dropped, None);
    }
}

impl fmt::Debug for AckHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AckHandle").field("slot", &self.slot).finish_non_exhaustive()
    }
}
