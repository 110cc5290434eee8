//! Running a listener: in order, concurrently, or in batches; pausing, resuming and stopping it.
//!
//! Each listener has one consumer task. In order, it reads the subscription and, side by side, awaits
//! the handler. Concurrently, it spawns a task for each key that has an event (and for each event
//! without a key); such a task handles the event, then those of its key that were queued meanwhile.
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

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{Backoff, Delivery, EventMessage, Name, Subscription};
use tokio::{
    sync::{Mutex, Semaphore, mpsc, watch},
    task::JoinSet,
};

use super::{
    key_queues::{KeyQueues, Permit},
    lane::{Alone, InOrder, Lane, OfKey},
    listener::{Control, Listener},
};
use crate::bus::shared::{Phase, catch_panic, consume, cut_off, drained, until_cut_off};

type Deliveries = Vec<Delivery<EventMessage>>;
/// Returns the emptied batch once its deliveries are taken.
type Taken = BoxFuture<'static, Deliveries>;

/// The waits before a listener that cannot subscribe after a pause asks again.
const FIRST_RESUME: Duration = Duration::from_millis(200);
const LONGEST_RESUME: Duration = Duration::from_secs(10);

impl Listener {
    /// Listens until the bus drains or the listener is stopped. A pause ends the subscription, so that
    /// other processes get what this one had taken and not begun.
    pub(super) async fn run(
        self: Arc<Self>,
        first: Subscription<EventMessage>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let mut control = self.control.subscribe();
        let mut subscription = first;
        loop {
            Arc::clone(&self).run_until_paused(subscription, &phase, &mut control).await;
            self.progress.set_paused(*control.borrow() == Control::Pause);
            tokio::select! {
                biased;
                () = drained(&mut phase) => return,
                _ = control.wait_for(|control| *control != Control::Pause) => {}
            }
            if *control.borrow() == Control::Stop {
                return;
            }
            let mut waits = Backoff::new(FIRST_RESUME, LONGEST_RESUME);
            subscription = loop {
                match self.subscribe().await {
                    Ok(subscription) => break subscription,
                    Err(error) => {
                        tracing::warn!(listener = %self.name(), %error, "listening cannot be resumed yet");
                        self.progress.cannot_restart(&error);
                    }
                }
                tokio::select! {
                    () = drained(&mut phase) => return,
                    () = tokio::time::sleep(waits.failed()) => {}
                }
            };
            self.progress.set_paused(false);
        }
    }

    /// Listens until the bus drains, or the listener is not to listen any more.
    async fn run_until_paused(
        self: Arc<Self>,
        subscription: Subscription<EventMessage>,
        phase: &watch::Receiver<Phase>,
        control: &mut watch::Receiver<Control>,
    ) {
        // What the listener sees of the phase: a pause looks like the end.
        let seen = watch::Sender::new(*phase.borrow());
        let watched = seen.subscribe();
        let forward = async {
            let mut phase = phase.clone();
            tokio::select! {
                () = drained(&mut phase) => {}
                _ = control.wait_for(|control| *control != Control::Listen) => {}
            }
            seen.send_replace(Phase::Draining);
            cut_off(&mut phase).await;
            seen.send_replace(Phase::CutOff);
            std::future::pending::<()>().await;
        };
        let work = async {
            if let Some(batches) = &self.batches {
                self.run_in_batches(batches, subscription, watched).await;
            } else if self.concurrency == 1 {
                self.run_in_order(subscription, watched).await;
            } else {
                Arc::clone(&self).run_concurrently(subscription, watched).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = forward => {}
        }
    }

    async fn run_in_order(&self, first: Subscription<EventMessage>, phase: watch::Receiver<Phase>) {
        let (arrived, take) = self.channel();
        let (mut watch, mut cut) = (phase.clone(), phase.clone());
        let work = async {
            let mut lane = InOrder::new(arrived);
            while let Some(delivery) = lane.next().await {
                self.handle(delivery, &mut lane, &mut None, &mut watch).await;
            }
        };
        // Side by side: closing the subscription waits until the last event is settled or given back.
        tokio::join!(consume(first, phase, &self.progress, || self.subscribe(), take), async {
            tokio::select! {
                biased;
                () = work => {}
                () = cut_off(&mut cut) => {}
            }
        });
    }

    /// A channel with room for all that may be in flight, and what puts deliveries into it.
    pub(super) fn channel(
        &self,
    ) -> (mpsc::Receiver<Delivery<EventMessage>>, impl FnMut(Deliveries) -> Taken + use<>) {
        let (sender, arrived) = mpsc::channel(self.spec.flow.max_in_flight);
        let take = move |mut deliveries: Deliveries| -> Taken {
            let sender = sender.clone();
            Box::pin(async move {
                for delivery in deliveries.drain(..) {
                    // Closed only when its task ends: then it is given back.
                    let _ = sender.send(delivery).await;
                }
                deliveries
            })
        };
        (arrived, take)
    }

    /// Concurrently, except for events of the same key.
    async fn run_concurrently(
        self: Arc<Self>,
        first: Subscription<EventMessage>,
        phase: watch::Receiver<Phase>,
    ) {
        let permits = Arc::new(Semaphore::new(self.concurrency));
        let all = u32::try_from(self.concurrency).unwrap_or(u32::MAX);
        let inner = Weak::clone(&self.inner);
        let declared = move |message: &EventMessage| {
            let schema = inner.upgrade()?.schema.get(&message.api)?;
            schema.key_in(&message.event, &message.fields)
        };
        let queues = Arc::new(KeyQueues::new(self.order.clone(), Box::new(declared)));
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
                    let mut permit = Permit::of(permits, all);
                    permit.acquire(delivery.is_suspect()).await;
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
        permit: Permit,
        mut watch: watch::Receiver<Phase>,
    ) {
        let mut permit = Some(permit);
        let mut lane: Box<dyn Lane> = match &queue {
            Some((queues, key)) => Box::new(OfKey { queues: Arc::clone(queues), key: key.clone() }),
            None => Box::new(Alone),
        };
        let mut next = Some(delivery);
        while let Some(delivery) = next.take() {
            let id = Name::clone(&delivery.message.id);
            let handled = self.handle(delivery, &mut *lane, &mut permit, &mut watch);
            // A bug of the bus or of a transport: the event is returned, and those of its key go on.
            if let Err(panic) = catch_panic(handled).await {
                tracing::error!(
                    listener = %self.name(), %id, panic,
                    "a task of the bus panicked: the event is redelivered"
                );
            }
            // Given up between two events: a busy key must not hold its permit for ever.
            if let Some(permit) = &mut permit {
                permit.release();
            }
            next = queue.as_ref().and_then(|(queues, key)| queues.next(key));
        }
    }
}
