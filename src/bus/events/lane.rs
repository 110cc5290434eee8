//! Where the events come from that are handled one after the other: all of a listener, or those of a
//! key.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use lightbus_core::{Delivery, EventMessage, time::deadline_after};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, sleep_until},
};

use super::key_queues::KeyQueues;

/// How often the queue of a key is looked at while one of its events waits for another.
const LOOK: Duration = Duration::from_millis(100);
/// How many events are taken from the channel at once.
const AT_ONCE: usize = 64;

/// Events that are handled one after the other.
#[async_trait]
pub(super) trait Lane: Send {
    /// The next event if there is one by then. Dropped, it takes nothing.
    async fn next_until(&mut self, until: Instant) -> Option<Delivery<EventMessage>>;

    /// The next event if there is one now.
    fn next_now(&mut self) -> Option<Delivery<EventMessage>>;
}

/// All events of a listener that handles one at a time.
pub(super) struct InOrder {
    arrived: mpsc::Receiver<Delivery<EventMessage>>,
    ready: VecDeque<Delivery<EventMessage>>,
    buffer: Vec<Delivery<EventMessage>>,
}

impl InOrder {
    pub(super) fn new(arrived: mpsc::Receiver<Delivery<EventMessage>>) -> Self {
        Self { arrived, ready: VecDeque::new(), buffer: Vec::with_capacity(AT_ONCE) }
    }

    /// The next event; `None` when no more will come. Dropped, it takes nothing.
    pub(super) async fn next(&mut self) -> Option<Delivery<EventMessage>> {
        if self.ready.is_empty() {
            self.arrived.recv_many(&mut self.buffer, AT_ONCE).await;
            self.ready.extend(self.buffer.drain(..));
        }
        self.ready.pop_front()
    }
}

#[async_trait]
impl Lane for InOrder {
    async fn next_until(&mut self, until: Instant) -> Option<Delivery<EventMessage>> {
        tokio::select! {
            biased;
            next = self.next() => match next {
                Some(next) => Some(next),
                // No more will come: nothing to compare with, then.
                None => {
                    sleep_until(until).await;
                    None
                }
            },
            () = sleep_until(until) => None,
        }
    }

    fn next_now(&mut self) -> Option<Delivery<EventMessage>> {
        self.ready.pop_front().or_else(|| self.arrived.try_recv().ok())
    }
}

/// The events of a key.
pub(super) struct OfKey {
    pub(super) queues: Arc<KeyQueues>,
    pub(super) key: Bytes,
}

#[async_trait]
impl Lane for OfKey {
    async fn next_until(&mut self, until: Instant) -> Option<Delivery<EventMessage>> {
        loop {
            if let Some(next) = self.next_now() {
                return Some(next);
            }
            if Instant::now() >= until {
                return None;
            }
            sleep_until(until.min(deadline_after(LOOK))).await;
        }
    }

    fn next_now(&mut self) -> Option<Delivery<EventMessage>> {
        self.queues.waiting(&self.key)
    }
}

/// An event without a key has no others behind it.
pub(super) struct Alone;

#[async_trait]
impl Lane for Alone {
    async fn next_until(&mut self, until: Instant) -> Option<Delivery<EventMessage>> {
        sleep_until(until).await;
        None
    }

    fn next_now(&mut self) -> Option<Delivery<EventMessage>> {
        None
    }
}
