//! A listener at work: in order, several events at once, or in batches.

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
            self.run_at_once(first, phase).await;
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

    /// Side by side, but for events of one key.
    async fn run_at_once(
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

    /// Handles an event, and then those of its key that came meanwhile.
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
            // Given up between two events: a busy key must not hold its permit for ever.
            permit.release();
            next = queue.as_ref().and_then(|(queues, key)| queues.next(key));
        }
    }
}
