//! A subscription whose deliveries fail, are late, redelivered or reordered.
//!
//! Deliveries of the subscription below are queued with the time from which they may be handed out. One
//! delivery below may be handed out twice (`Redeliver`), so its acknowledgement is shared: the first
//! outcome other than `Retry` settles it, and it is returned only when all deliveries of it are.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::future::join_all;
use lightbus_core::{
    AckHandle, Delivery, Error, EventMessage, Name, Outcome, Result, Retry, Room, Source,
    Subscription, time::after,
};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep_until},
};

use super::{At, Fault, Faults, away, path};

/// How often in a row the delivery of an event may fail.
const MOST_DROPS: u32 = 5;

pub(super) struct FaultyListener {
    inner: AsyncMutex<Option<Subscription<EventMessage>>>,
    queue: Mutex<Queue>,
    faults: Faults,
    group: Name,
    /// Whether events of one API must keep their order.
    ordered: bool,
    room: Room,
}

/// Deliveries that have arrived and not been handed out.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// The time before which nothing is handed out.
    all_from: Option<Instant>,
    /// The time before which nothing of an API is handed out.
    api_from: HashMap<Name, Instant>,
    /// How often deliveries of an event have failed.
    drops: HashMap<Name, u32>,
    broken: bool,
    /// The error that ended the subscription below.
    end: Option<Error>,
}

struct Waiting {
    from: Option<Instant>,
    message: Arc<EventMessage>,
    held: Arc<SharedDelivery>,
}

/// A delivery of the subscription below. It may be handed out more than once.
pub(super) struct SharedDelivery {
    ack: Mutex<Option<AckHandle>>,
    /// How many deliveries of it are unsettled.
    open: AtomicUsize,
    path: String,
    number: u64,
    /// Whether acknowledging it was attempted before.
    tried: AtomicBool,
}

impl SharedDelivery {
    fn take(&self) -> Option<AckHandle> {
        self.ack.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn is_settled(&self) -> bool {
        self.ack.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    async fn settle(&self, outcome: &Outcome) {
        let last = self.open.fetch_sub(1, Ordering::AcqRel) == 1;
        // Returned by one delivery, it may still be handled by another.
        if *outcome == Outcome::Retry && !last {
            return;
        }
        if let Some(ack) = self.take() {
            // If this fails, the event is redelivered.
            let _ = ack.settle(outcome.clone()).await;
        }
    }
}

impl Queue {
    /// Returns what may be handed out now, in order for each API.
    fn ready(&mut self, max: usize) -> Vec<(Arc<EventMessage>, Arc<SharedDelivery>)> {
        let now = Instant::now();
        let mut ready = Vec::new();
        let mut index = 0;
        while index < self.waiting.len() && ready.len() < max {
            let waiting = &self.waiting[index];
            if waiting.held.is_settled() {
                // Handled by its first delivery, so it is not redelivered.
                self.waiting.remove(index);
            } else if waiting.from.is_none_or(|from| from <= now) {
                let waiting = self.waiting.remove(index);
                ready.extend(waiting.map(|waiting| (waiting.message, waiting.held)));
            } else {
                index += 1;
            }
        }
        ready
    }

    fn next(&self) -> Option<Instant> {
        self.waiting.iter().filter_map(|waiting| waiting.from).min()
    }
}

impl FaultyListener {
    pub(super) fn new(
        inner: Subscription<EventMessage>,
        faults: Faults,
        group: Name,
        ordered: bool,
    ) -> Self {
        let room = inner.room();
        let inner = AsyncMutex::new(Some(inner));
        Self { inner, queue: Mutex::default(), faults, group, ordered, room }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arrived(&self, queue: &mut Queue, delivery: Delivery<EventMessage>) {
        let Delivery { message, ack, .. } = delivery;
        let path = path(&message.api, &message.event);
        let number = self.faults.numbers.of(&message.id, &path);
        // An event that is stored twice has one id; the two fail independently.
        let stored = message.native_id.as_ref().unwrap_or(&message.id);
        let drops = queue.drops.get(stored).copied().unwrap_or(0);
        let at = |what| At { what, path: &path, group: &self.group, number, attempt: drops + 1 };
        queue.broken |= self.faults.happens(Fault::Disconnect, &at("delivering"));
        if drops < MOST_DROPS && self.faults.happens(Fault::Drop, &at("delivering")) {
            queue.drops.insert(Name::clone(stored), drops + 1);
            // Dropping the handle has it redelivered.
            drop(ack);
            return;
        }
        queue.drops.remove(stored);
        let now = Instant::now();
        if self.faults.happens(Fault::Delay, &at("delivering")) {
            let from = after(now, self.faults.wait(&at("delivering")));
            queue.all_from = queue.all_from.max(Some(from));
        }
        let mut from = queue.all_from;
        if self.faults.happens(Fault::Reorder, &at("delivering")) {
            let passed = after(now, self.faults.wait(&at("passing")));
            if self.ordered {
                let held_up = queue.api_from.entry(Name::clone(&message.api)).or_insert(passed);
                *held_up = passed.max(*held_up);
            } else {
                from = from.max(Some(passed));
            }
        }
        from = from.max(queue.api_from.get(&message.api).copied());
        let again = self.faults.happens(Fault::Redeliver, &at("delivering"));
        let held = Arc::new(SharedDelivery {
            ack: Mutex::new(Some(ack)),
            open: AtomicUsize::new(1 + usize::from(again)),
            number,
            path,
            tried: AtomicBool::new(false),
        });
        if again {
            let attempt = message.attempt.saturating_add(1);
            let again = Arc::new(EventMessage { attempt, ..EventMessage::clone(&message) });
            queue.waiting.push_back(Waiting { from, message, held: Arc::clone(&held) });
            queue.waiting.push_back(Waiting { from, message: again, held });
        } else {
            queue.waiting.push_back(Waiting { from, message, held });
        }
    }
}

#[async_trait]
impl Source for FaultyListener {
    type Message = EventMessage;
    type Token = Arc<SharedDelivery>;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<EventMessage>, Arc<SharedDelivery>)>> {
        let mut inner = self.inner.lock().await;
        let Some(subscription) = inner.as_mut() else {
            return Err(Error::closed("the subscription"));
        };
        let mut buffer = Vec::new();
        loop {
            let (next, ended) = {
                let mut queue = self.queue();
                if std::mem::take(&mut queue.broken) {
                    return Err(away(Retry::Safe));
                }
                let ready = queue.ready(max);
                if !ready.is_empty() {
                    return Ok(ready);
                }
                if let (true, Some(end)) = (queue.waiting.is_empty(), &queue.end) {
                    return Err(end.clone());
                }
                (queue.next(), queue.end.is_some())
            };
            let until = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            // Deliveries are queued without an await: a dropped fetch loses nothing.
            tokio::select! {
                biased;
                count = subscription.next_batch(&mut buffer, max), if !ended => {
                    let mut queue = self.queue();
                    if count == 0 {
                        queue.end.get_or_insert_with(|| Error::closed("the subscription"));
                    }
                    for delivery in buffer.drain(..) {
                        match delivery {
                            Ok(delivery) => self.arrived(&mut queue, delivery),
                            Err(error) => queue.end = Some(error),
                        }
                    }
                }
                () = until => {}
            }
        }
    }

    async fn settle(&self, settled: &[(Arc<SharedDelivery>, Outcome)]) -> Result<()> {
        let mut breaks = false;
        for (held, _) in settled {
            // Decided once per delivery, whatever it is settled with; one fault fails the whole batch.
            if held.tried.swap(true, Ordering::AcqRel) {
                continue;
            }
            let at = At {
                what: "acknowledging",
                path: &held.path,
                group: &self.group,
                number: held.number,
                attempt: 1,
            };
            breaks |= self.faults.happens(Fault::Disconnect, &at);
        }
        if breaks {
            // Nothing is settled: the driver retries with the same tokens.
            return Err(away(Retry::Safe));
        }
        join_all(settled.iter().map(|(held, outcome)| held.settle(outcome))).await;
        Ok(())
    }

    fn is_suspect(&self, message: &EventMessage, _: &Arc<SharedDelivery>) -> bool {
        message.attempt > 2
    }

    async fn begin(&self, held: &Arc<SharedDelivery>) -> Result<bool> {
        let Some(mut ack) = held.take() else { return Ok(false) };
        let begun = ack.begin().await;
        *held.ack.lock().unwrap_or_else(PoisonError::into_inner) = Some(ack);
        Ok(begun)
    }

    fn held_back(&self, messages: usize) {
        self.room.held_back(messages);
    }

    async fn close(&self) -> Result<()> {
        // Dropped deliveries are returned.
        self.queue().waiting.clear();
        match self.inner.lock().await.take() {
            Some(subscription) => subscription.close().await,
            None => Ok(()),
        }
    }
}
