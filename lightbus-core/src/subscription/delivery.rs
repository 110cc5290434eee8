//! One message in a consumer's hands, and the handle that settles it.

use std::{fmt, sync::Arc};

use tokio::sync::{mpsc, oneshot};

use super::Outcome;
use crate::{Error, Result};

/// A message that was handed out, to be settled by [`ack`](Self::ack).
pub struct Delivery<M> {
    /// The message.
    pub message: Arc<M>,
    /// Settles it. Dropped, the message comes again (a call does not).
    pub ack: AckHandle,
}

impl<M: fmt::Debug> fmt::Debug for Delivery<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("message", &self.message).finish_non_exhaustive()
    }
}

/// Settles one delivery, once: settling takes the handle. Dropping it is [`Outcome::Retry`].
pub struct AckHandle {
    slot: usize,
    settlements: Option<mpsc::Sender<Settlement>>,
}

pub(super) struct Settlement {
    pub(super) slot: usize,
    pub(super) fate: Fate,
    pub(super) confirm: Option<oneshot::Sender<Result<()>>>,
}

pub(super) enum Fate {
    Settled(Outcome),
    /// The handle was dropped: somebody had the message and did not say.
    Dropped,
    /// Nobody has seen the message.
    Unseen,
}

impl AckHandle {
    pub(super) fn new(slot: usize, settlements: mpsc::Sender<Settlement>) -> Self {
        Self { slot, settlements: Some(settlements) }
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

    fn send(&mut self, fate: Fate, confirm: Option<oneshot::Sender<Result<()>>>) {
        if let Some(settlements) = self.settlements.take() {
            // Never full: it has room for a settlement of each delivery in flight. Closed: the
            // subscription has ended and has given the message back.
            let _ = settlements.try_send(Settlement { slot: self.slot, fate, confirm });
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
