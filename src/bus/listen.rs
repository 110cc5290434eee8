//! Listening to events.

use std::{fmt, future::IntoFuture, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use lightbus_core::{
    Backoff, Delivery, Error, ErrorKind, EventMessage, Name, Outcome, Result, Subscription, name,
    transport::{EventSelector, EventTransport, ListenSpec, Start},
};
use tokio::{
    sync::{Mutex, Notify, Semaphore, watch},
    task::JoinSet,
    time::sleep,
};

use super::{
    Bus, Inner, Phase,
    apis::{ApiEntry, at},
    consumer::{catch_panic, consume, drained},
    health::Progress,
    received::FromEvent,
    watchdog::watch_over,
};
use crate::plugins::Plugins;

/// Taken from the broker at once, and held, however many are handled at a time: a round trip for
/// each event would be most of the work.
const BATCH: usize = 256;
const IN_FLIGHT: usize = 512;

/// Why a handler failed: any error, by `?`.
pub struct HandlerError(Box<dyn std::error::Error + Send + Sync>);

/// What a handler gives: `Ok(())` acknowledges the event.
pub type HandlerResult = Result<(), HandlerError>;

impl HandlerError {
    /// A failure with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into().into())
    }
}

// Not an error itself, so that it can be made from every error.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What becomes of an event whose handler fails or panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// It is tried again, and after the last try set aside as a dead letter. The default.
    Retry(RetryPolicy),
    /// It is logged and acknowledged.
    Acknowledge,
    /// The process ends with an error, and the event stays unacknowledged: Python's default.
    Shutdown,
}

impl Default for OnError {
    fn default() -> Self {
        Self::Retry(RetryPolicy::default())
    }
}

/// How often, and after which waits, a failed event is tried again. Later events wait meanwhile, so
/// that order is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// All tries together: 5.
    pub attempts: u32,
    /// The wait after the first failure, doubled with each further one, and shortened by a random
    /// part of up to a half: 200 ms.
    pub first_wait: Duration,
    /// The longest wait: 10 s.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(10),
        }
    }
}

type Handler =
    Arc<dyn Fn(Arc<EventMessage>) -> BoxFuture<'static, Result<(), Fault>> + Send + Sync>;

/// Why one try failed.
enum Fault {
    /// The handler said so.
    Failed(HandlerError),
    /// The event cannot be read: trying again is useless.
    Unreadable(Error),
}

/// A listener that is about to begin: await it.
#[must_use = "a listener begins when it is awaited"]
pub struct Listen {
    bus: Bus,
    name: Name,
    events: Result<Vec<EventSelector>>,
    handler: Handler,
    concurrency: usize,
    start: Start,
    on_error: OnError,
}

impl Listen {
    /// The most events that are handled at once: 1, which keeps them in order. Zero counts as one.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.max(1);
        self
    }

    /// Where a listener that the broker does not know yet begins: with what is fired from now on.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// What becomes of an event whose handler fails.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = on_error;
        self
    }
}

impl IntoFuture for Listen {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'static, Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let name = Name::clone(&self.name);
            self.begin().await.map_err(|error| error.during(format!("listening as {name}")))
        })
    }
}

impl fmt::Debug for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listen")
            .field("name", &self.name)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Listens to an event: the handler's argument says to which. When this has been awaited, the
    /// broker knows the listener, and nothing fired later is missed, also while no process runs.
    ///
    /// The argument is the event, or [`Received<E>`](super::Received) with what is known about it.
    ///
    /// # Delivery
    ///
    /// At least once per listener name: processes of one service that listen under the same name
    /// share the events. An event is acknowledged after its handler returned `Ok`. What a process
    /// that died had taken is handled by another.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if this process has a listener of this name already;
    /// [`Unavailable`](ErrorKind::Unavailable) and [`Timeout`](ErrorKind::Timeout) if the broker does not answer.
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # #[lightbus::api(name = "auth", events(UserRegistered))] pub trait Auth {}
    /// # #[derive(lightbus::Event)] pub struct UserRegistered { username: String }
    /// # async fn example(bus: &Bus) -> lightbus::Result<()> {
    /// bus.listen("welcome", |event: UserRegistered| async move {
    ///     println!("Welcome, {}!", event.username);
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    pub fn listen<E, F, Fut>(&self, name: &str, handler: F) -> Listen
    where
        E: FromEvent,
        F: Fn(E) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let handler = move |message: Arc<EventMessage>| -> BoxFuture<'static, Result<(), Fault>> {
            match E::from_message(&message) {
                Ok(event) => {
                    let handled = handler(event);
                    Box::pin(async move { handled.await.map_err(Fault::Failed) })
                }
                Err(error) => Box::pin(std::future::ready(Err(Fault::Unreadable(error)))),
            }
        };
        self.listener(name, Ok(vec![E::selector()]), Arc::new(handler))
    }

    /// Listens to events by their names, without types: `auth.user_registered`, or `auth.*` for all
    /// events of an API. All go to one listener. Otherwise as [`listen`](Self::listen).
    pub fn listen_to<'a, F, Fut>(
        &self,
        name: &str,
        events: impl IntoIterator<Item = &'a str>,
        handler: F,
    ) -> Listen
    where
        F: Fn(Arc<EventMessage>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let events = events.into_iter().map(selector).collect();
        let handler = move |message| -> BoxFuture<'static, Result<(), Fault>> {
            let handled = handler(message);
            Box::pin(async move { handled.await.map_err(Fault::Failed) })
        };
        self.listener(name, events, Arc::new(handler))
    }

    fn listener(&self, name: &str, events: Result<Vec<EventSelector>>, handler: Handler) -> Listen {
        Listen {
            bus: self.clone(),
            name: name.into(),
            events,
            handler,
            concurrency: 1,
            start: Start::New,
            on_error: OnError::default(),
        }
    }
}

fn selector(path: &str) -> Result<EventSelector> {
    let (api, event) = name::split(path)?;
    Ok(if event == "*" { EventSelector::all(api) } else { EventSelector::one(api, event) })
}

impl Listen {
    async fn begin(self) -> Result<()> {
        let inner = Arc::clone(self.bus.inner());
        inner.ensure_taking()?;
        if self.name.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "a listener needs a name: it is half of its consumer group's",
            ));
        }
        let events = self.events?;
        if events.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "there is nothing to listen to: name at least one event",
            ));
        }
        if inner.names.service_is_random {
            tracing::warn!(
                listener = %self.name,
                service = %inner.names.service,
                "the service has a name of its own at each start: events fired while it is away are missed. Set LIGHTBUS_SERVICE_NAME"
            );
        }
        if !inner.state().listener_names.insert(Name::clone(&self.name)) {
            return Err(Error::new(
                ErrorKind::Config,
                "this process has a listener of this name already",
            )
            .hint("Two listeners of one name would share the events, not get them both"));
        }
        if !inner.features.events {
            tracing::info!(listener = %self.name, "the feature `events` is off: the listener is left out");
            return Ok(());
        }
        let mut subscribed = Vec::new();
        for (entry, events) in by_transport(&inner, events) {
            let listener = Arc::new(Listener {
                name: Name::clone(&self.name),
                spec: ListenSpec {
                    service: Name::clone(&inner.names.service),
                    listener: Name::clone(&self.name),
                    process: Name::clone(&inner.names.process),
                    events,
                    start: self.start,
                    flow: inner.flow(BATCH, IN_FLIGHT.max(2 * self.concurrency)),
                },
                event: Arc::clone(&entry.event),
                incoming: entry.config.validate.incoming,
                handler: Arc::clone(&self.handler),
                on_error: self.on_error,
                concurrency: self.concurrency,
                handled: Arc::clone(&inner.handled),
                inner: Arc::downgrade(&inner),
                progress: Progress::listener(&self.name),
                plugins: Arc::clone(&inner.plugins),
            });
            let limit = entry.config.event_listener_setup_timeout;
            let begun = async {
                entry.open().await?;
                listener.subscribe().await
            };
            let begun = tokio::time::timeout(limit, begun).await;
            let begun = begun.unwrap_or_else(|_| {
                Err(Error::timeout("the broker did not answer in time", limit))
            });
            let subscription = begun.map_err(|error| {
                inner.state().listener_names.remove(&self.name);
                at(&*entry.event, error)
            })?;
            subscribed.push((listener, subscription));
        }
        for (listener, subscription) in subscribed {
            let progress = Arc::clone(&listener.progress);
            {
                let mut state = inner.state();
                state.listeners.push(Arc::clone(&listener));
                state.progress.push(Arc::clone(&progress));
            }
            inner.spawn_consumer(watch_over(
                Arc::downgrade(&listener),
                Arc::downgrade(&inner),
                progress,
                inner.watch(),
            ));
            inner.spawn_consumer(listener.run(subscription, inner.watch()));
        }
        Ok(())
    }
}

/// Events of APIs on different transports need a subscription on each.
fn by_transport(
    inner: &Inner,
    events: Vec<EventSelector>,
) -> Vec<(Arc<ApiEntry>, Vec<EventSelector>)> {
    let mut groups: Vec<(Arc<ApiEntry>, Vec<EventSelector>)> = Vec::new();
    for selector in events {
        let entry = inner.apis.entry(&selector.api);
        match groups.iter_mut().find(|(other, _)| Arc::ptr_eq(&other.event, &entry.event)) {
            Some((_, selectors)) => selectors.push(selector),
            None => groups.push((entry, vec![selector])),
        }
    }
    groups
}

pub(super) struct Listener {
    name: Name,
    pub(super) spec: ListenSpec,
    pub(super) event: Arc<dyn EventTransport>,
    pub(super) concurrency: usize,
    incoming: bool,
    handler: Handler,
    pub(super) on_error: OnError,
    handled: Arc<Notify>,
    inner: std::sync::Weak<Inner>,
    progress: Arc<Progress>,
    plugins: Arc<Plugins>,
}

/// How a delivery ended.
enum End {
    Settle(Outcome),
    /// The bus drains: the event is given back.
    GiveBack,
}

impl Listener {
    async fn subscribe(&self) -> Result<Subscription<EventMessage>> {
        self.event.listen(self.spec.clone()).await
    }

    async fn run(
        self: Arc<Self>,
        first: Subscription<EventMessage>,
        phase: watch::Receiver<Phase>,
    ) {
        if self.concurrency == 1 {
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
                    self.handle(delivery, &mut watch).await;
                }
                deliveries
            }
        };
        consume(first, phase, &self.progress, || self.subscribe(), take).await;
    }

    async fn run_at_once(
        self: Arc<Self>,
        first: Subscription<EventMessage>,
        phase: watch::Receiver<Phase>,
    ) {
        let (permits, running) = (Semaphore::new(self.concurrency), Mutex::new(JoinSet::new()));
        let permits = Arc::new(permits);
        let watch = phase.clone();
        let take = |mut deliveries: Vec<Delivery<EventMessage>>| {
            let (permits, running) = (Arc::clone(&permits), &running);
            let (listener, watch) = (Arc::clone(&self), watch.clone());
            async move {
                let mut running = running.lock().await;
                while running.try_join_next().is_some() {}
                for delivery in deliveries.drain(..) {
                    let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                        break;
                    };
                    let (listener, mut watch) = (Arc::clone(&listener), watch.clone());
                    running.spawn(async move {
                        listener.handle(delivery, &mut watch).await;
                        drop(permit);
                    });
                }
                deliveries
            }
        };
        consume(first, phase, &self.progress, || self.subscribe(), take).await;
        running.into_inner().shutdown().await;
    }

    async fn handle(&self, delivery: Delivery<EventMessage>, phase: &mut watch::Receiver<Phase>) {
        let Delivery { message, ack } = delivery;
        // Draining: what was not begun is left to others.
        if *phase.borrow() >= Phase::Draining {
            self.progress.done();
            return;
        }
        match self.try_until_settled(&message, phase).await {
            End::Settle(outcome) => ack.settle_later(outcome),
            End::GiveBack => drop(ack),
        }
        self.progress.done();
        self.handled.notify_waiters();
    }

    async fn try_until_settled(
        &self,
        message: &Arc<EventMessage>,
        phase: &mut watch::Receiver<Phase>,
    ) -> End {
        if let Err(error) = self.check(message) {
            return self.unreadable(message, &error);
        }
        let policy = match self.on_error {
            OnError::Retry(policy) => policy,
            OnError::Acknowledge | OnError::Shutdown => {
                RetryPolicy { attempts: 1, ..RetryPolicy::default() }
            }
        };
        let mut waits = Backoff::new(policy.first_wait, policy.longest_wait);
        loop {
            let reason = match catch_panic(self.attempt(message)).await {
                Ok(Ok(())) => return End::Settle(Outcome::Done),
                Ok(Err(Fault::Unreadable(error))) => return self.unreadable(message, &error),
                Ok(Err(Fault::Failed(error))) => error.to_string(),
                Err(panic) => format!("the handler panicked: {panic}"),
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
            tokio::select! {
                () = drained(phase) => return End::GiveBack,
                () = sleep(wait) => {}
            }
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

    fn give_up(&self, message: &EventMessage, reason: String, attempts: u32) -> End {
        match self.on_error {
            OnError::Acknowledge => End::Settle(Outcome::Done),
            OnError::Retry(_) => {
                tracing::error!(listener = %self.name, id = %message.id, attempts, reason, "the event is set aside as a dead letter");
                End::Settle(Outcome::Reject(reason.into()))
            }
            OnError::Shutdown => {
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

    fn check(&self, message: &EventMessage) -> Result<()> {
        let Some(inner) = self.inner.upgrade().filter(|_| self.incoming) else {
            return Ok(());
        };
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
    fn unreadable(&self, message: &EventMessage, error: &Error) -> End {
        tracing::error!(
            listener = %self.name, api = %message.api, event = %message.event, id = %message.id, %error,
            "an event cannot be read: it is set aside as a dead letter"
        );
        End::Settle(Outcome::Reject(error.to_string().into()))
    }
}
