//! A listener in batches: several events in a handler's hands at once, settled together or one by one.

use std::sync::Arc;

use lightbus_core::{Backoff, Delivery, EventMessage, Outcome, Subscription};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    batches::{BatchFault, Batches},
    listener::{End, Listener},
};
use crate::bus::shared::{HandlerError, Phase, catch_panic, consume, cut_off, drained};

impl Listener {
    /// Batch after batch, each as soon as it is full or its wait is over.
    pub(super) async fn run_in_batches(
        &self,
        batches: &Batches,
        first: Subscription<EventMessage>,
        phase: watch::Receiver<Phase>,
    ) {
        // Has room for all that may be in flight: what is in it is held by the subscription too.
        let (sender, arrived) = mpsc::channel(self.spec.flow.max_in_flight);
        let take = move |mut deliveries: Vec<Delivery<EventMessage>>| {
            let sender = sender.clone();
            async move {
                for delivery in deliveries.drain(..) {
                    // Closed only when this task ends: then it is given back.
                    let _ = sender.send(delivery).await;
                }
                deliveries
            }
        };
        let (watch, mut cut) = (phase.clone(), phase.clone());
        // Side by side: closing the subscription waits until the last batch is given back.
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
            let full_by = Instant::now() + batches.wait;
            while batch.len() < batches.most {
                let room = batches.most - batch.len();
                tokio::select! {
                    biased;
                    () = drained(&mut phase) => break,
                    more = arrived.recv_many(&mut batch, room) => if more == 0 { break },
                    () = sleep_until(full_by) => break,
                }
            }
            let count = batch.len();
            self.handle_batch(batches, &mut batch, &mut phase).await;
            self.progress.done_many(count as u64);
            // What is left is given back.
            batch.clear();
            self.handled.notify_waiters();
        }
    }

    /// One try, between what plugins do. What they refuse fails the batch: nothing of it was handled.
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

    /// Tries until all are settled, or leaves in `batch` what is to be given back.
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
                return self.handle_each_alone(batch, waits.failures() + 1, phase).await;
            }
            let messages: Vec<_> = batch.iter().map(|one| Arc::clone(&one.message)).collect();
            // Within: reading the events and making the handler's future may panic too.
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

    /// The last try: one by one, so that one event that cannot be handled takes no other with it.
    async fn handle_each_alone(
        &self,
        batch: &mut Vec<Delivery<EventMessage>>,
        attempt: u32,
        phase: &mut watch::Receiver<Phase>,
    ) {
        for delivery in batch.drain(..) {
            // Those that are not begun are given back.
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

/// Settles those of which `end` says how they ended, and keeps the others, in order.
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
        End::GiveBack => drop(delivery),
    }
}
