//! Running a listener in batches.
//!
//! Two futures in one task, joined: the consumer moves deliveries from the subscription into a channel,
//! the gatherer takes batches out of it and calls the handler. The channel has room for everything the
//! subscription may have in flight, so the consumer never blocks on it.
//!
//! They must be joined rather than run one after the other: closing the subscription waits until every
//! delivery has been settled or dropped, and the last ones are held by the gatherer. On cut-off the
//! gatherer is dropped first, which returns what it holds
//! (test `closing_gives_back_a_batch_that_waits`).
//!
//! A batch that fails is retried as the batch of those that failed; the last attempt handles each event
//! alone, so that one bad event does not dead-letter the others.

use std::sync::Arc;

use lightbus_core::{Backoff, Delivery, EventMessage, Outcome, Subscription, time::deadline_after};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, sleep_until},
};

use super::{
    batches::{BatchFault, Batches},
    listener::{End, Listener},
};
use crate::bus::shared::{HandlerError, Phase, catch_panic, consume, cut_off, drained};

impl Listener {
    /// Handles batch after batch, each as soon as it is full or has waited long enough.
    pub(super) async fn run_in_batches(
        &self,
        batches: &Batches,
        first: Subscription<EventMessage>,
        phase: watch::Receiver<Phase>,
    ) {
        // Bounded by the subscription's credit, which counts everything in it.
        let (sender, arrived) = mpsc::channel(self.spec.flow.max_in_flight);
        let take = move |mut deliveries: Vec<Delivery<EventMessage>>| {
            let sender = sender.clone();
            async move {
                for delivery in deliveries.drain(..) {
                    // Fails only if the gatherer has ended: then the delivery is dropped, and returned.
                    let _ = sender.send(delivery).await;
                }
                deliveries
            }
        };
        let (watch, mut cut) = (phase.clone(), phase.clone());
        // Joined: closing the subscription waits for the deliveries that the gatherer holds.
        tokio::join!(consume(first, phase, &self.progress, || self.subscribe(), take), async {
            tokio::select! {
                biased;
                () = self.gather(batches, arrived, watch) => {}
                () = cut_off(&mut cut) => {}
            }
        },);
    }

    async fn gather(
        &self,
        batches: &Batches,
        mut arrived: mpsc::Receiver<Delivery<EventMessage>>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let mut batch = Vec::new();
        while arrived.recv_many(&mut batch, batches.most).await > 0 {
            let full_by = deadline_after(batches.wait);
            while batch.len() < batches.most {
                let room = batches.most - batch.len();
                tokio::select! {
                    biased;
                    () = drained(&mut phase) => break,
                    more = arrived.recv_many(&mut batch, room) => if more == 0 { break },
                    () = sleep_until(full_by) => break,
                }
            }
            let begun = self.progress.began_many(batch.len());
            self.handle_batch(batches, &mut batch, &mut phase).await;
            drop(begun);
            // Whatever is left was not settled, and is returned.
            batch.clear();
            self.handled.notify_waiters();
        }
    }

    /// One attempt, with plugins before and after. If a plugin refuses an event, the whole batch fails:
    /// nothing of it was handled.
    async fn attempt_batch(
        &self,
        batches: &Batches,
        mut messages: Vec<Arc<EventMessage>>,
    ) -> Result<(), BatchFault> {
        if self.plugins.is_empty() {
            return (batches.handler)(&messages).await;
        }
        for message in &mut messages {
            let changed = Arc::make_mut(message);
            let asked = self.plugins.before_event_execution(changed, self.name()).await;
            asked.map_err(|error| BatchFault::Failed(error.into()))?;
        }
        let tried = (batches.handler)(&messages).await;
        for (index, message) in messages.iter().enumerate() {
            let handled = match &tried {
                Ok(()) => true,
                Err(BatchFault::Failed(error)) => error.reason_for(index, messages.len()).is_none(),
                Err(BatchFault::Unreadable(_)) => false,
            };
            if handled {
                self.plugins.after_event_execution(message, self.name()).await;
            }
        }
        tried
    }

    /// Retries until all events are settled, or leaves in `batch` those to be returned.
    async fn handle_batch(
        &self,
        batches: &Batches,
        batch: &mut Vec<Delivery<EventMessage>>,
        phase: &mut watch::Receiver<Phase>,
    ) {
        if self.takes_no_more(phase) {
            return;
        }
        settle_where(batch, |_, message| {
            self.check(message).err().map(|error| self.unreadable(message, &error))
        });
        let policy = self.policy();
        let mut waits = Backoff::new(policy.first_wait, policy.longest_wait);
        while !batch.is_empty() {
            let last = waits.failures() + 1 >= policy.attempts.max(1);
            if last && waits.failures() > 0 && batch.len() > 1 {
                return self.handle_singly(batch, waits.failures() + 1, phase).await;
            }
            let messages: Vec<_> = batch.iter().map(|one| Arc::clone(&one.message)).collect();
            // Decoding the events and creating the handler's future may panic too.
            let tried = catch_panic(self.attempt_batch(batches, messages)).await;
            let failure = match tried {
                Ok(Ok(())) => {
                    settle_where(batch, |_, _| Some(End::Settle(Outcome::Done)));
                    return;
                }
                Ok(Err(BatchFault::Unreadable(errors))) => {
                    settle_where(batch, |index, message| {
                        let (_, error) = errors.iter().find(|(place, _)| *place == index)?;
                        Some(self.unreadable(message, error))
                    });
                    continue;
                }
                Ok(Err(BatchFault::Failed(error))) => error,
                Err(panic) => HandlerError::new(format!("the handler panicked: {panic}")),
            };
            let events = batch.len();
            let mut reasons: Vec<String> = Vec::new();
            settle_where(batch, |index, _| match failure.reason_for(index, events) {
                Some(reason) => {
                    reasons.push(reason);
                    None
                }
                None => Some(End::Settle(Outcome::Done)),
            });
            let wait = waits.failed();
            let attempt = waits.failures();
            tracing::warn!(
                listener = %self.name(), events, failed = batch.len(), attempt, reason = %failure,
                "the handler of a batch failed"
            );
            if last {
                settle_where(batch, |index, message| {
                    Some(self.give_up(message, reasons[index].clone(), attempt))
                });
                return;
            }
            tokio::select! {
                () = drained(phase) => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// The last attempt: one by one, so that one event that cannot be handled does not dead-letter the
    /// others.
    async fn handle_singly(
        &self,
        batch: &mut Vec<Delivery<EventMessage>>,
        attempt: u32,
        phase: &mut watch::Receiver<Phase>,
    ) {
        for delivery in batch.drain(..) {
            // Those not yet started are returned.
            if self.takes_no_more(phase) {
                return;
            }
            let message = &delivery.message;
            let end = match self.try_once(message).await {
                Ok(end) => end,
                Err(reason) => self.give_up(message, reason, attempt),
            };
            settle(delivery, end);
        }
    }
}

/// Settles the deliveries for which `end` returns how they ended. Keeps the others, in order.
fn settle_where(
    batch: &mut Vec<Delivery<EventMessage>>,
    mut end: impl FnMut(usize, &Arc<EventMessage>) -> Option<End>,
) {
    let mut left = Vec::with_capacity(batch.len());
    for (index, delivery) in batch.drain(..).enumerate() {
        match end(index, &delivery.message) {
            Some(end) => settle(delivery, end),
            None => left.push(delivery),
        }
    }
    *batch = left;
}

fn settle(delivery: Delivery<EventMessage>, end: End) {
    match end {
        End::Settle(outcome) => delivery.ack.settle_later(outcome),
        End::Return => drop(delivery),
    }
}
