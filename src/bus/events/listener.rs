//! A listener, and one attempt of its handler: validate, call, tell how it ended.
//!
//! [`run`](super::run) and [`run_batches`](super::run_batches) decide when events are handled, and
//! [`retry`](super::retry) how often each is attempted. The order is fixed: attempt, wait, attempt
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
//! - `OnError::Shutdown`. `failed` is set before the process is asked to stop, because the deliveries
//!   fetched together with the failed event are still in the consumer's hands, and handling those
//!   would reorder the stream (test `after_a_failure_that_ends_the_process_nothing_more_is_handled`).

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, EventMessage, Name, Outcome, Rejection, Result, Subscription,
    transport::{EventTransport, ListenSpec},
};
use tokio::sync::{Notify, watch};

use super::{
    batches::Batches,
    breaker::Breaker,
    claims::Claim,
    handler::{Fault, Handler},
    on_error::{OnError, RetryPolicy},
};
use crate::bus::shared::{
    HandlerError, Inner, Listening, Phase, PluginChain, Progress, catch_panic,
};

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
    pub(super) breaker: Breaker,
    /// How long a handler may take.
    pub(super) timeout: Option<Duration>,
    pub(super) control: watch::Sender<Control>,
    /// Its group, which no other listener of this program may have.
    pub(super) _claim: Option<Claim>,
}

/// What an operator wants of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Listen,
    Pause,
    Stop,
}

/// Why a try failed.
pub(super) enum Failure {
    /// It may succeed later.
    Passing(String),
    /// The handler said that it never will.
    Permanent(String),
}

/// How a delivery ended.
pub(super) enum End {
    Settle(Outcome),
    /// Not settled: the event is returned to the broker.
    Return,
}

impl Listener {
    /// Returns how many events wait for it at the broker.
    pub(super) async fn waiting(&self) -> Result<u64> {
        self.event.waiting_here(&self.spec).await
    }

    pub(super) fn name(&self) -> &Name {
        &self.spec.group.listener
    }

    pub(super) async fn subscribe(&self) -> Result<Subscription<EventMessage>> {
        self.event.listen(self.spec.clone()).await
    }

    /// Whether events not yet started are to be returned: the bus drains, or a failure is shutting the
    /// process down.
    pub(super) fn takes_no_more(&self, phase: &watch::Receiver<Phase>) -> bool {
        *phase.borrow() >= Phase::Draining || self.failed.load(Ordering::SeqCst)
    }

    pub(super) fn policy(&self) -> RetryPolicy {
        match self.on_error {
            OnError::Retry(policy) => policy,
            OnError::Acknowledge | OnError::Shutdown => RetryPolicy::attempts(1),
        }
    }

    /// Makes one attempt. Returns how the event ends, or why the attempt failed.
    pub(super) async fn try_once(&self, message: &Arc<EventMessage>) -> Result<End, Failure> {
        let _begun = self.progress.began();
        // Decoding the event, creating the handler's future and dropping it may panic too.
        let tried = catch_panic(async {
            let attempt = self.attempt(message);
            let Some(limit) = self.timeout else { return attempt.await };
            tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
                let reason = format!("the handler did not return within {limit:?}");
                Err(Fault::Failed(HandlerError::new(reason)))
            })
        });
        let tried = tried.await;
        match tried {
            Ok(Ok(())) => Ok(End::Settle(Outcome::Done)),
            Ok(Err(Fault::Unreadable(error))) => Ok(self.unreadable(message, &error)),
            Ok(Err(Fault::Failed(error))) if error.is_permanent() => {
                Err(Failure::Permanent(error.reason()))
            }
            Ok(Err(Fault::Failed(error))) => Err(Failure::Passing(error.reason())),
            Err(panic) => Err(Failure::Passing(format!("the handler panicked: {panic}"))),
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
        self.after_execution(&message).await;
        Ok(())
    }

    /// What plugins do after an event was handled. It stays handled if one of them panics.
    pub(super) async fn after_execution(&self, message: &EventMessage) {
        let after = self.plugins.after_event_execution(message, self.name());
        if let Err(panic) = catch_panic(after).await {
            tracing::error!(
                listener = %self.name(), api = %message.api, event = %message.event, id = %message.id,
                panic, "a plugin panicked after an event was handled"
            );
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
        match self.try_once(&event).await {
            Ok(End::Settle(Outcome::Done)) => Ok(()),
            Ok(End::Settle(Outcome::Reject(rejection))) => Err(rejection.reason().to_owned()),
            Ok(_) => Err("the handler was not run to its end".to_owned()),
            Err(Failure::Passing(reason) | Failure::Permanent(reason)) => Err(reason),
        }
    }

    fn pause(&self) {
        self.control.send_if_modified(|control| {
            std::mem::replace(control, Control::Pause) == Control::Listen
        });
    }

    fn resume(&self) {
        self.control.send_if_modified(|control| {
            let paused = *control == Control::Pause;
            if paused {
                *control = Control::Listen;
            }
            paused
        });
    }

    async fn stop(&self) {
        self.control.send_replace(Control::Stop);
        // Its task holds the receivers, and ends.
        self.control.closed().await;
    }
}
