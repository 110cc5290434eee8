//! A listener at work: takes events, hands them to its handler, and settles them.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{
    Backoff, Delivery, Error, ErrorKind, EventMessage, Name, Outcome, Rejection, Result,
    Subscription,
    transport::{EventTransport, ListenSpec},
};
use tokio::{
    sync::{Mutex, Notify, Semaphore, watch},
    task::JoinSet,
    time::sleep,
};

use super::{
    Inner, Phase,
    batches::Batches,
    consumer::{catch_panic, consume, drained, until_cut_off},
    health::Progress,
    lanes::{Lanes, Place},
    on_error::{HandlerError, OnError, RetryPolicy},
};
use crate::plugins::Plugins;

pub(super) type Handler =
    Arc<dyn Fn(Arc<EventMessage>) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// Why one try failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The handler said so.
    Failed(HandlerError),
    /// The event cannot be read: trying again is useless.
    Unreadable(Error),
}

pub(super) struct Listener {
    pub(super) name: Name,
    pub(super) spec: ListenSpec,
    pub(super) event: Arc<dyn EventTransport>,
    pub(super) concurrency: usize,
    /// The field by which events are kept in order, where several are handled at once.
    pub(super) order: Option<Name>,
    pub(super) incoming: bool,
    pub(super) handler: Handler,
    /// Where events are handled in batches.
    pub(super) batches: Option<Batches>,
    pub(super) on_error: OnError,
    /// A handler's failure ends the process: nothing more is handled.
    pub(super) failed: AtomicBool,
    pub(super) handled: Arc<Notify>,
    pub(super) inner: Weak<Inner>,
    pub(super) progress: Arc<Progress>,
    pub(super) plugins: Arc<Plugins>,
}

/// How a delivery ended.
pub(super) enum End {
    Settle(Outcome),
    /// The bus drains: the event is given back.
    GiveBack,
}

impl Listener {
    pub(super) async fn subscribe(&self) -> Result<Subscription<EventMessage>> {
        self.event.listen(self.spec.clone()).await
    }

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
        let places = Arc::new(Semaphore::new(self.concurrency));
        let lanes = Arc::new(Lanes::new(self.order.clone()));
        let running = Mutex::new(JoinSet::new());
        let watch = phase.clone();
        let take = |mut deliveries: Vec<Delivery<EventMessage>>| {
            let (listener, places, lanes) = (&self, &places, &lanes);
            let (running, watch) = (&running, watch.clone());
            async move {
                let mut running = running.lock().await;
                while running.try_join_next().is_some() {}
                for delivery in deliveries.drain(..) {
                    let key = lanes.key(&delivery.message);
                    let delivery = match &key {
                        None => Some(delivery),
                        Some(key) => lanes.enter(key, delivery),
                    };
                    let Some(delivery) = delivery else { continue };
                    let place = Place::take(places).await;
                    let lane = key.map(|key| (Arc::clone(lanes), key));
                    let watch = watch.clone();
                    running.spawn(Arc::clone(listener).handle_lane(delivery, lane, place, watch));
                }
                deliveries
            }
        };
        let consumer = consume(first, phase.clone(), &self.progress, || self.subscribe(), take);
        let drop_handlers = async || running.lock().await.shutdown().await;
        until_cut_off(consumer, phase, drop_handlers).await;
    }

    /// Handles an event, and then those of its key that came meanwhile.
    async fn handle_lane(
        self: Arc<Self>,
        delivery: Delivery<EventMessage>,
        lane: Option<(Arc<Lanes>, Bytes)>,
        mut place: Place,
        mut watch: watch::Receiver<Phase>,
    ) {
        let mut next = Some(delivery);
        while let Some(delivery) = next.take() {
            place.take_again().await;
            self.handle(delivery, &mut watch, Some(&mut place)).await;
            // Given up between two events: a busy key must not hold its place for ever.
            place.free();
            next = lane.as_ref().and_then(|(lanes, key)| lanes.next(key));
        }
    }

    async fn handle(
        &self,
        delivery: Delivery<EventMessage>,
        phase: &mut watch::Receiver<Phase>,
        place: Option<&mut Place>,
    ) {
        let Delivery { message, ack, .. } = delivery;
        if self.takes_no_more(phase) {
            self.progress.done();
            return;
        }
        match self.try_until_settled(&message, phase, place).await {
            End::Settle(outcome) => ack.settle_later(outcome),
            End::GiveBack => drop(ack),
        }
        self.progress.done();
        self.handled.notify_waiters();
    }

    /// Draining, or ended by a failure: what was not begun is left to others.
    pub(super) fn takes_no_more(&self, phase: &watch::Receiver<Phase>) -> bool {
        *phase.borrow() >= Phase::Draining || self.failed.load(Ordering::SeqCst)
    }

    pub(super) fn policy(&self) -> RetryPolicy {
        match self.on_error {
            OnError::Retry(policy) => policy,
            OnError::Acknowledge | OnError::Shutdown => {
                RetryPolicy { attempts: 1, ..RetryPolicy::default() }
            }
        }
    }

    /// How a try ended, or why it failed and may be made again.
    pub(super) async fn try_once(&self, message: &Arc<EventMessage>) -> Result<End, String> {
        // Within: reading the event and making the handler's future may panic too.
        match catch_panic(self.attempt(message)).await {
            Ok(Ok(())) => Ok(End::Settle(Outcome::Done)),
            Ok(Err(Fault::Unreadable(error))) => Ok(self.unreadable(message, &error)),
            Ok(Err(Fault::Failed(error))) => Err(error.to_string()),
            Err(panic) => Err(format!("the handler panicked: {panic}")),
        }
    }

    /// One try, between what plugins do.
    async fn attempt(&self, message: &Arc<EventMessage>) -> Result<(), Fault> {
        if self.plugins.is_empty() {
            return (self.handler)(Arc::clone(message)).await;
        }
        let mut message = EventMessage::clone(message);
        let asked = self.plugins.before_event_execution(&mut message, &self.name).await;
        asked.map_err(|error| Fault::Failed(error.into()))?;
        let message = Arc::new(message);
        (self.handler)(Arc::clone(&message)).await?;
        self.plugins.after_event_execution(&message, &self.name).await;
        Ok(())
    }

    async fn try_until_settled(
        &self,
        message: &Arc<EventMessage>,
        phase: &mut watch::Receiver<Phase>,
        mut place: Option<&mut Place>,
    ) -> End {
        if let Err(error) = self.check(message) {
            return self.unreadable(message, &error);
        }
        let policy = self.policy();
        let mut waits = Backoff::new(policy.first_wait, policy.longest_wait);
        loop {
            let reason = match self.try_once(message).await {
                Ok(end) => return end,
                Err(reason) => reason,
            };
            let wait = waits.failed();
            let attempt = waits.failures();
            tracing::warn!(
                listener = %self.name, api = %message.api, event = %message.event, id = %message.id, attempt, reason,
                "a handler failed"
            );
            if attempt >= policy.attempts.max(1) {
                return self.give_up(message, reason, attempt);
            }
            if let Some(place) = &mut place {
                place.free();
            }
            let waited = async {
                sleep(wait).await;
                if let Some(place) = &mut place {
                    place.take_again().await;
                }
            };
            tokio::select! {
                () = drained(phase) => return End::GiveBack,
                () = waited => {}
            }
        }
    }

    pub(super) fn give_up(&self, message: &EventMessage, reason: String, attempts: u32) -> End {
        match self.on_error {
            OnError::Acknowledge => End::Settle(Outcome::Done),
            OnError::Retry(_) => {
                tracing::error!(listener = %self.name, id = %message.id, attempts, reason, "the event is set aside as a dead letter");
                End::Settle(Outcome::Reject(Rejection::new(reason).after(attempts)))
            }
            OnError::Shutdown => {
                // What comes after it stays behind it.
                self.failed.store(true, Ordering::SeqCst);
                if let Some(inner) = self.inner.upgrade() {
                    let what =
                        format!("handling {}.{} as {}", message.api, message.event, self.name);
                    inner.fail(
                        Error::new(ErrorKind::Remote, reason)
                            .during(what)
                            .with("event", &message.id),
                    );
                }
                End::GiveBack
            }
        }
    }

    pub(super) fn check(&self, message: &EventMessage) -> Result<()> {
        let Some(inner) = self.inner.upgrade() else { return Ok(()) };
        inner.apis.entry(&message.api).check_size(&message.fields)?;
        if !self.incoming {
            return Ok(());
        }
        match inner.schema.get(&message.api) {
            // An event that the schema lacks is newer, or older, than the schema.
            Some(schema) => match schema.check_event(&message.event, &message.fields) {
                Err(error) if error.kind() == ErrorKind::Unknown => Ok(()),
                checked => checked,
            },
            None => Ok(()),
        }
    }

    /// Trying again would not help: it is set aside, whatever the policy, and the listener goes on.
    pub(super) fn unreadable(&self, message: &EventMessage, error: &Error) -> End {
        tracing::error!(
            listener = %self.name, api = %message.api, event = %message.event, id = %message.id, %error,
            "an event cannot be read: it is set aside as a dead letter"
        );
        End::Settle(Outcome::Reject(error.to_string().into()))
    }
}
