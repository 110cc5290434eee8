//! Running a listener: in order, concurrently, or in batches.
//!
//! Each listener has one consumer task. In order, that task awaits the handler itself. Concurrently, it
//! spawns a task for each key that has an event (and for each event without a key); such a task handles
//! the event, then those of its key that were queued meanwhile.
//!
//! Three things bound and order the work: the subscription's credit counts every delivery that exists;
//! a semaphore has one permit for each handler that may run, and the consumer waits for one before it
//! spawns, which is the back-pressure; [`KeyQueues`] knows which task owns a key. The key is claimed
//! before the permit, so an event of a busy key is queued without holding up the consumer. A permit is
//! released while an event waits for a retry, and between two events of a key
//! (tests `while_one_key_waits_to_be_tried_again_the_others_go_on`, `a_busy_key_leaves_the_others_alone`).
//!
//! A key is released under the lock under which deliveries are queued, so none can be queued behind a
//! key that no task owns (test `events_of_one_key_stay_in_order`).
//!
//! On cut-off, the consumer drops the future that takes a batch, which may be waiting for a permit with
//! the `JoinSet` locked; only then can `drop_handlers` lock the set and abort the tasks. Both are polled
//! by the same task, so neither starves the other. Queued and running deliveries are dropped with their
//! tasks, and returned (test `what_is_waiting_behind_a_key_comes_again_after_closing`).

use std::sync::Arc;

use bytes::Bytes;
use lightbus_core::{Delivery, EventMessage, Subscription};
use tokio::{
    sync::{Mutex, Semaphore, watch},
    task::JoinSet,
};

use super::{
    key_queues::{KeyQueues, Permit},
    listener::Listener,
};
use crate::bus::shared::{Phase, consume, until_cut_off};

impl Listener {
    /// Handles events until the bus drains.
    pub(super) async fn run(
        self: Arc<Self>,
        first: Subscription<EventMessage>,
        phase: watch::Receiver<Phase>,
    ) {
        if let Some(batches) = &self.batches {
            self.run_in_batches(batches, first, phase).await;
        } else if self.concurrency == 1 {
            self.run_in_order(first, phase).await;
        } else {
            self.run_concurrently(first, phase).await;
        }
    }

    async fn run_in_order(&self, first: Subscription<EventMessage>, phase: watch::Receiver<Phase>) {
        let watch = phase.clone();
        let take = |mut deliveries: Vec<Delivery<EventMessage>>| {
            let mut watch = watch.clone();
            async move {
                for delivery in deliveries.drain(..) {
                    self.handle(delivery, &mut watch, None).await;
                }
                deliveries
            }
        };
        consume(first, phase, &self.progress, || self.subscribe(), take).await;
    }

    /// Concurrently, except for events of the same key.
    async fn run_concurrently(
        self: Arc<Self>,
        first: Subscription<EventMessage>,
        phase: watch::Receiver<Phase>,
    ) {
        let permits = Arc::new(Semaphore::new(self.concurrency));
        let queues = Arc::new(KeyQueues::new(self.order.clone()));
        let running = Mutex::new(JoinSet::new());
        let watch = phase.clone();
        let take = |mut deliveries: Vec<Delivery<EventMessage>>| {
            let (listener, permits, queues) = (&self, &permits, &queues);
            let (running, watch) = (&running, watch.clone());
            async move {
                let mut running = running.lock().await;
                while running.try_join_next().is_some() {}
                for delivery in deliveries.drain(..) {
                    let key = queues.key(&delivery.message);
                    let delivery = match &key {
                        None => Some(delivery),
                        Some(key) => queues.enter(key, delivery),
                    };
                    let Some(delivery) = delivery else { continue };
                    let permit = Permit::take(permits).await;
                    let queue = key.map(|key| (Arc::clone(queues), key));
                    let watch = watch.clone();
                    running.spawn(Arc::clone(listener).handle_key(delivery, queue, permit, watch));
                }
                deliveries
            }
        };
        let consumer = consume(first, phase.clone(), &self.progress, || self.subscribe(), take);
        let drop_handlers = async || running.lock().await.shutdown().await;
        until_cut_off(consumer, phase, drop_handlers).await;
    }

    /// Handles an event, then those of its key that were queued meanwhile.
    async fn handle_key(
        self: Arc<Self>,
        delivery: Delivery<EventMessage>,
        queue: Option<(Arc<KeyQueues>, Bytes)>,
        mut permit: Permit,
        mut watch: watch::Receiver<Phase>,
    ) {
        let mut next = Some(delivery);
        while let Some(delivery) = next.take() {
            permit.acquire().await;
            self.handle(delivery, &mut watch, Some(&mut permit)).await;
            // Released between two events: a busy key must not hold its permit forever.
            permit.release();
            next = queue.as_ref().and_then(|(queues, key)| queues.next(key));
        }
    }
}
