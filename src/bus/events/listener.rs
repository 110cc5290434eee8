//! What a listener does with one event: validate, call the handler, retry, settle.
//!
//! [`run`](super::run) and [`run_batches`](super::run_batches) decide when events reach
//! [`Listener::handle`]; this file decides how each ends. The order is fixed: attempt, wait, attempt
//! again, dead letter, acknowledge. Three ends are possible: settled as done, settled as rejected
//! (the transport makes it a dead letter), or returned, by dropping the delivery's handle.
//!
//! The delivery owns its acknowledgement, so whatever drops a future in here (cut-off, a panic in the
//! runtime) returns the event to the broker; no path needs to remember to do it.
//!
//! Two things race with a handler:
//!
//! - Draining. Events not yet started are returned (`takes_no_more`), and so is an event that waits for
//!   a retry; a handler that runs may finish.
//! - `OnError::Shutdown`. `failed` is set before the process is told to stop, because the deliveries
//!   fetched together with the failed event are still in the consumer's hands, and handling those
//!   would reorder the stream (test `after_a_failure_that_ends_the_process_nothing_more_is_handled`).

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use lightbus_core::{
    Backoff, Delivery, Error, ErrorKind, EventMessage, Name, Outcome, Rejection, Result,
    Subscription,
    transport::{EventTransport, ListenSpec},
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    batches::Batches,
    handler::{Fault, Handler},
    key_queues::Permit,
    on_error::{OnError, RetryPolicy},
};
use crate::bus::shared::{Inner, Listening, Phase, PluginChain, Progress, catch_panic, drained};

/// A listener on one transport.
pub(super) struct Listener {
    pub(super) spec: ListenSpec,
    pub(super) event: Arc<dyn EventTransport>,
    pub(super) concurrency: usize,
    /// The field that is the ordering key, where several events are handled concurrently.
    pub(super) order: Option<Name>,
    /// Whether events are validated against their schema.
    pub(super) incoming: bool,
    pub(super) handler: Handler,
    /// Set if events are handled in batches.
    pub(super) batches: Option<Batches>,
    pub(super) on_error: OnError,
    /// A failed handler is shutting the process down: nothing more is handled.
    pub(super) failed: AtomicBool,
    pub(super) handled: Arc<Notify>,
    pub(super) inner: Weak<Inner>,
    pub(super) progress: Arc<Progress>,
    pub(super) plugins: Arc<dyn PluginChain>,
}

/// How a delivery ended.
pub(super) enum End {
    Settle(Outcome),
    /// Not settled: the event is returned to the broker.
    Return,
}

impl Listener {
    pub(super) fn name(&self) -> &Name {
        &self.spec.group.listener
    }

    pub(super) async fn subscribe(&self) -> Result<Subscription<EventMessage>> {
        self.event.listen(self.spec.clone()).await
    }

    pub(super) async fn handle(
        &self,
        delivery: Delivery<EventMessage>,
        phase: &mut watch::Receiver<Phase>,
        permit: Option<&mut Permit>,
    ) {
        let Delivery { message, ack, .. } = delivery;
        if self.takes_no_more(phase) {
            return;
        }
        let _begun = self.progress.began();
        match self.try_until_settled(&message, phase, permit).await {
            End::Settle(outcome) => ack.settle_later(outcome),
            End::Return => drop(ack),
        }
        self.handled.notify_waiters();
    }

    /// Whether events not yet started are to be returned: the bus drains, or a failure is shutting the
    /// process down.
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

    /// Makes one attempt. Returns how the event ends, or why the attempt failed and may be repeated.
    pub(super) async fn try_once(&self, message: &Arc<EventMessage>) -> Result<End, String> {
        // Decoding the event and creating the handler's future may panic too.
        match catch_panic(self.attempt(message)).await {
            Ok(Ok(())) => Ok(End::Settle(Outcome::Done)),
            Ok(Err(Fault::Unreadable(error))) => Ok(self.unreadable(message, &error)),
            Ok(Err(Fault::Failed(error))) => Err(error.to_string()),
            Err(panic) => Err(format!("the handler panicked: {panic}")),
        }
    }

    /// Calls the handler, with plugins before and after.
    async fn attempt(&self, message: &Arc<EventMessage>) -> Result<(), Fault> {
        if self.plugins.is_empty() {
            return (self.handler)(Arc::clone(message)).await;
        }
        let mut message = EventMessage::clone(message);
        let asked = self.plugins.before_event_execution(&mut message, self.name()).await;
        asked.map_err(|error| Fault::Failed(error.into()))?;
        let message = Arc::new(message);
        (self.handler)(Arc::clone(&message)).await?;
        self.plugins.after_event_execution(&message, self.name()).await;
        Ok(())
    }

    async fn try_until_settled(
        &self,
        message: &Arc<EventMessage>,
        phase: &mut watch::Receiver<Phase>,
        mut permit: Option<&mut Permit>,
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
                listener = %self.name(), api = %message.api, event = %message.event, id = %message.id, attempt, reason,
                "a handler failed"
            );
            if attempt >= policy.attempts.max(1) {
                return self.give_up(message, reason, attempt);
            }
            if let Some(permit) = &mut permit {
                permit.release();
            }
            let waited = async {
                sleep(wait).await;
                if let Some(permit) = &mut permit {
                    permit.acquire().await;
                }
            };
            tokio::select! {
                () = drained(phase) => return End::Return,
                () = waited => {}
            }
        }
    }

    /// Decides how an event ends whose last attempt failed.
    pub(super) fn give_up(&self, message: &EventMessage, reason: String, attempts: u32) -> End {
        match self.on_error {
            OnError::Acknowledge => End::Settle(Outcome::Done),
            OnError::Retry(_) => {
                tracing::error!(listener = %self.name(), id = %message.id, attempts, reason, "event dead-lettered: retries have run out");
                End::Settle(Outcome::Reject(Rejection::new(reason).after(attempts)))
            }
            OnError::Shutdown => {
                // Before anything else: later events must not overtake this one.
                self.failed.store(true, Ordering::SeqCst);
                if let Some(inner) = self.inner.upgrade() {
                    let what =
                        format!("handling {}.{} as {}", message.api, message.event, self.name());
                    inner.fail(
                        Error::new(ErrorKind::Remote, reason)
                            .during(what)
                            .with("event", &message.id),
                    );
                }
                End::Return
            }
        }
    }

    /// Checks the size of an event, and validates it against its schema.
    pub(super) fn check(&self, message: &EventMessage) -> Result<()> {
        let Some(inner) = self.inner.upgrade() else { return Ok(()) };
        inner.apis.entry(&message.api).check_size(&message.fields)?;
        if !self.incoming {
            return Ok(());
        }
        match inner.schema.get(&message.api) {
            // The event is newer or older than the schema that this process knows.
            Some(schema) => match schema.check_event(&message.event, &message.fields) {
                Err(error) if error.kind() == ErrorKind::Unknown => Ok(()),
                checked => checked,
            },
            None => Ok(()),
        }
    }

    /// Rejects an event that cannot be decoded, whatever the policy: retrying is pointless.
    pub(super) fn unreadable(&self, message: &EventMessage, error: &Error) -> End {
        tracing::error!(
            listener = %self.name(), api = %message.api, event = %message.event, id = %message.id, %error,
            "event dead-lettered: it cannot be decoded"
        );
        End::Settle(Outcome::Reject(error.to_string().into()))
    }
}

#[async_trait]
impl Listening for Listener {
    fn spec(&self) -> &ListenSpec {
        &self.spec
    }

    fn transport(&self) -> &Arc<dyn EventTransport> {
        &self.event
    }

    fn describe(&self) -> String {
        let events = self.spec.events.iter().map(|selector| {
            format!("{}.{}", selector.api, selector.event.as_deref().unwrap_or("*"))
        });
        let events: Vec<_> = events.collect();
        let failed = match self.on_error {
            OnError::Retry(policy) => format!("{} attempts, then dead letter", policy.attempts),
            OnError::Acknowledge => "failures are logged and acknowledged".to_owned(),
            OnError::Shutdown => "a failure shuts the process down".to_owned(),
        };
        let name = self.name();
        let at_once = match &self.batches {
            Some(batches) => format!("batches of up to {}", batches.most),
            None => format!("{} at a time", self.concurrency),
        };
        format!("{} as {name} · {at_once} · {failed}", events.join(", "))
    }

    async fn handle_once(&self, event: Arc<EventMessage>) -> Result<(), String> {
        self.check(&event).map_err(|error| error.to_string())?;
        match self.try_once(&event).await? {
            End::Settle(Outcome::Done) => Ok(()),
            End::Settle(Outcome::Reject(rejection)) => Err(rejection.reason().to_owned()),
            _ => Err("the handler was not run to its end".to_owned()),
        }
    }
}
