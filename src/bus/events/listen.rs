//! Listening to events: what to listen to, and with which settings.

use std::{
    fmt,
    future::IntoFuture,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use futures_util::future::BoxFuture;
use lightbus_core::{
    Error, ErrorKind, EventMessage, Name, Result,
    transport::{EventSelector, GroupSpec, ListenSpec, Start},
};
use tokio::sync::watch;

#[cfg(feature = "tower")]
use super::layer::{self, Handling};
use super::{
    batches::Batches,
    breaker::Breaker,
    claims::Claim,
    handler::{Fault, Handler},
    listener::{Control, Listener},
    on_error::OnError,
    received::FromEvent,
};
use crate::{
    bus::shared::{ApiEntry, Bus, HandlerResult, Inner, Listening, Progress, at, watch_over},
    contract::Parameter,
};

/// The most events that are taken from the broker at once.
const BATCH: usize = 256;
/// The most events that are held, unless told otherwise.
const PREFETCH: usize = 512;
/// The most events that may be handled at once, whatever is asked for.
const MOST_AT_ONCE: usize = 10_000;

/// A listener to be started. Await it to start listening.
#[must_use = "a listener starts when it is awaited"]
pub struct Listen {
    bus: Bus,
    name: Name,
    events: Result<Vec<EventSelector>>,
    handler: Handler,
    batches: Option<Batches>,
    /// Whether `batch` was called.
    batched: bool,
    concurrency: usize,
    order: Option<Name>,
    /// The fields of the event, if its type is known.
    fields: Option<&'static [Parameter]>,
    start: Start,
    on_error: Option<OnError>,
    prefetch: Option<usize>,
    timeout: Option<Duration>,
}

impl Listen {
    /// Sets how many events are handled concurrently. Default: 1, which keeps all events in order.
    /// Zero counts as one, more than 10,000 as 10,000.
    ///
    /// Above one, events of the same key are still handled one after the other; events of other keys,
    /// and events without a key, are handled concurrently. The key is the field that
    /// `#[event(key = "…")]` or [`ordered_by`](Self::ordered_by) names. While an event waits for a
    /// retry, only events of its key wait behind it. Order is kept within one process: where several
    /// processes listen under one name, the broker may deliver events of one key to different ones.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.clamp(1, MOST_AT_ONCE);
        self
    }

    /// The most events that this process holds, those at work included: 512, or what the configuration
    /// says (`listeners.<name>.prefetch`). Never fewer than are handled at once.
    ///
    /// Within it, what is taken ahead is what the handler has been measured to handle in about a
    /// second: processes that listen under one name share a backlog, and one that dies leaves little
    /// behind.
    pub fn prefetch(mut self, events: usize) -> Self {
        self.prefetch = Some(events);
        self
    }

    /// How long the handler may take for one event, or one batch: no limit, or what the configuration
    /// says (`listeners.<name>.timeout`). Then it is dropped where it waits, which is a failure as any
    /// other. Code that blocks its thread cannot be cut off.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Sets the largest size of a batch of [`listen_in_batches`](Bus::listen_in_batches), and how long
    /// a batch waits to be full once it has its first event. Default: 100 events, 100 ms. The size is
    /// clamped to 1 to 10,000.
    ///
    /// Awaiting fails with [`Config`](ErrorKind::Config) if the handler takes single events.
    pub fn batch(mut self, most: usize, wait: Duration) -> Self {
        self.batched = true;
        if let Some(batches) = &mut self.batches {
            batches.limit(most, wait);
        }
        self
    }

    /// Sets the field whose value is the ordering key, in place of the key of the event's type, where
    /// [`concurrency`](Self::concurrency) is above one. An event without the field, or with `null`, has
    /// no key.
    ///
    /// Awaiting fails with [`Config`](ErrorKind::Config) if the event's type has no such field.
    pub fn ordered_by(mut self, field: &str) -> Self {
        self.order = Some(field.into());
        self
    }

    /// Sets where a listener that the broker does not know yet starts reading. Default:
    /// [`Start::New`], the events fired from now on.
    pub fn start(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// What becomes of an event whose handler fails: [`OnError::Retry`] with the default policy, or
    /// with what the configuration says (`listeners.<name>.retry`).
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.on_error = Some(on_error);
        self
    }

    /// Wraps the handler in a tower layer. The layer added last is the outermost.
    ///
    /// A layer sees every attempt. An error of it is a failure of the handler, and is treated as
    /// [`on_error`](Self::on_error) says. Handlers of batches cannot have layers: awaiting fails with
    /// [`Config`](ErrorKind::Config).
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # use std::time::Duration;
    /// # #[lightbus::api(name = "auth", events(UserRegistered))] pub trait Auth {}
    /// # #[derive(lightbus::Event)] pub struct UserRegistered { username: String }
    /// # async fn example(bus: &Bus) -> lightbus::Result<()> {
    /// bus.listen("welcome", |_: UserRegistered| async { Ok(()) })
    ///     .layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(5)))
    ///     .await
    /// # }
    /// ```
    #[cfg(feature = "tower")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: tower::Layer<Handling>,
        L::Service:
            tower::Service<Arc<EventMessage>, Response = ()> + Clone + Send + Sync + 'static,
        <L::Service as tower::Service<Arc<EventMessage>>>::Error: Into<layer::BoxError>,
        <L::Service as tower::Service<Arc<EventMessage>>>::Future: Send,
    {
        if self.batches.is_some() {
            self.events = Err(Error::new(
                ErrorKind::Config,
                "layers wrap handlers of single events, and this handler takes batches",
            ));
        }
        self.handler = layer::around(&self.handler, layer);
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
    /// Listens to an event. The type of the handler's argument says which: the event itself, or
    /// [`Received<E>`](crate::Received) for the event with its metadata.
    ///
    /// Once this has been awaited, the broker knows the listener. No event fired later is missed, even
    /// while no process runs.
    ///
    /// # Delivery
    ///
    /// At least once per listener name: processes of one service that listen under the same name share
    /// the events. An event is acknowledged after its handler has returned `Ok`. Events held by a
    /// process that dies are redelivered to another.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if this process already has a listener of this name;
    /// [`Unavailable`](ErrorKind::Unavailable) or [`Timeout`](ErrorKind::Timeout) if the broker does
    /// not answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, nothing is handled, but the broker may know the listener, and keep
    /// events for it.
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
        Listen {
            order: E::key().map(Name::from),
            fields: Some(E::fields()),
            ..self.listener(name, Ok(vec![E::selector()]), Arc::new(handler))
        }
    }

    /// Listens to an event in batches. The handler takes a `Vec` of the event, or of
    /// [`Received<E>`](crate::Received), in order and never empty. [`batch`](Listen::batch) sets the
    /// size of a batch and how long it waits to be full.
    ///
    /// # Delivery
    ///
    /// At least once, as [`listen`](Self::listen); one batch at a time. `Ok` acknowledges all events of
    /// the batch. [`HandlerError::of_events`](crate::HandlerError::of_events) fails some events and
    /// acknowledges the others. Any other error, or a panic, fails the whole batch. The failed events
    /// are retried as a smaller batch, in the last attempt one by one, so that only events that cannot
    /// be handled are dead-lettered. An event that cannot be decoded is dead-lettered before the handler
    /// is called.
    ///
    /// # Errors
    ///
    /// Those of [`listen`](Self::listen), and [`Config`](ErrorKind::Config) for a
    /// [`concurrency`](Listen::concurrency) above one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use lightbus::prelude::*;
    /// # #[lightbus::api(name = "auth", events(UserRegistered))] pub trait Auth {}
    /// # #[derive(lightbus::Event)] pub struct UserRegistered { username: String }
    /// # async fn example(bus: &Bus) -> lightbus::Result<()> {
    /// bus.listen_in_batches("count", |users: Vec<UserRegistered>| async move {
    ///     println!("{} more users", users.len());
    ///     Ok(())
    /// })
    /// .batch(500, Duration::from_secs(1))
    /// .await
    /// # }
    /// ```
    pub fn listen_in_batches<E, F, Fut>(&self, name: &str, handler: F) -> Listen
    where
        E: FromEvent,
        F: Fn(Vec<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let batches = Batches::new(handler);
        Listen {
            fields: Some(E::fields()),
            batches: Some(batches.clone()),
            ..self.listener(name, Ok(vec![E::selector()]), batches.singly())
        }
    }

    /// Listens to events by name, without types: `auth.user_registered`, or `auth.*` for all events of
    /// an API. One listener receives all of them. Delivery and errors are those of
    /// [`listen`](Self::listen).
    ///
    /// There are no other patterns: `*.placed`, `shop.pl*` and `*.*` fail with
    /// [`Config`](ErrorKind::Config) and the events that they may mean. A name that the schemas on the
    /// bus lack is logged as a warning, with the nearest one: its API may be published later.
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
        let events = events.into_iter().map(|path| self.inner().selector(path)).collect();
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
            batches: None,
            batched: false,
            concurrency: 1,
            order: None,
            fields: None,
            start: Start::New,
            on_error: None,
            prefetch: None,
            timeout: None,
        }
    }
}

impl Listen {
    async fn begin(self) -> Result<()> {
        let inner = Arc::clone(self.bus.inner());
        inner.ensure_taking()?;
        if self.name.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "a listener needs a name: it is part of its consumer group's name",
            ));
        }
        self.check_order()?;
        self.check_batches()?;
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
                "the service has a random name at each start: events fired while it does not run are missed. Set LIGHTBUS_SERVICE_NAME"
            );
        }
        let name = inner.reserve_listener(&self.name).ok_or_else(|| {
            Error::new(ErrorKind::Config, "this process already has a listener of this name").hint(
                "Two listeners of one name would share the events instead of both receiving them",
            )
        })?;
        if !inner.features.events {
            tracing::info!(listener = %self.name, "the feature `events` is off: the listener is not started");
            name.keep();
            return Ok(());
        }
        let at_once = self.batches.as_ref().map_or(self.concurrency, |batches| batches.most);
        let settings = inner.config.listener(&self.name);
        let on_error = self.on_error.unwrap_or_else(|| OnError::Retry(settings.policy()));
        let prefetch = self.prefetch.or_else(|| settings.prefetch()).unwrap_or(PREFETCH);
        let flow = inner.flow(BATCH, prefetch.max(at_once)).for_handlers(at_once);
        let policy = match on_error {
            OnError::Retry(policy) => Some(policy),
            OnError::Acknowledge | OnError::Shutdown => None,
        };
        let mut subscribed = Vec::new();
        let named = events.clone();
        for (entry, events) in by_transport(&inner, events) {
            let progress = Progress::listener(&self.name);
            if let Some(limit) = self.timeout.or(settings.timeout) {
                progress.limit(Some(limit));
            }
            let group = GroupSpec::new(Name::clone(&inner.names.service), Name::clone(&self.name));
            let listener = Arc::new(Listener {
                _claim: Claim::new(&inner, &entry, &group)?,
                spec: ListenSpec {
                    group,
                    process: Name::clone(&inner.names.process),
                    events,
                    start: self.start,
                    flow,
                },
                event: Arc::clone(&entry.event),
                incoming: entry.config.validate.incoming,
                handler: Arc::clone(&self.handler),
                batches: self.batches.clone(),
                on_error,
                breaker: Breaker::new(policy, &progress),
                timeout: self.timeout.or(settings.timeout),
                control: watch::Sender::new(Control::Listen),
                concurrency: self.concurrency,
                order: self.order.clone(),
                failed: AtomicBool::new(false),
                handled: Arc::clone(&inner.handled),
                inner: Arc::downgrade(&inner),
                progress,
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
            let subscription = begun.map_err(|error| at(&*entry.event, error))?;
            subscribed.push((listener, subscription));
        }
        for (listener, subscription) in subscribed {
            let progress = Arc::clone(&listener.progress);
            {
                let mut state = inner.state();
                state.listeners.push(Arc::clone(&listener) as Arc<dyn Listening>);
                state.progress.push(Arc::clone(&progress));
            }
            let (watched, phase) = (Arc::downgrade(&listener), inner.watch());
            let watching = Arc::clone(&progress);
            inner.spawn_internal(&format!("watchdog of listener {}", self.name), move || {
                let watched = watched.clone();
                watch_over(Arc::clone(&watching), phase.clone(), move || {
                    let listener = watched.upgrade()?;
                    Some(async move { listener.waiting().await })
                })
            });
            let (opener, phase) = (Arc::clone(&listener), inner.watch());
            inner.spawn_consumer(
                progress,
                subscription,
                move || {
                    let listener = Arc::clone(&opener);
                    async move { listener.subscribe().await }
                },
                move |subscription| Arc::clone(&listener).run(subscription, phase.clone()),
            );
        }
        name.keep();
        inner.warn_of_unknown(&self.name, named);
        Ok(())
    }
}

impl Listen {
    fn check_batches(&self) -> Result<()> {
        if self.batched && self.batches.is_none() {
            return Err(Error::new(
                ErrorKind::Config,
                "the handler takes single events, not batches",
            )
            .hint("Listen with `listen_in_batches`, whose handler takes a `Vec` of events"));
        }
        if self.batches.is_some() && self.concurrency > 1 {
            return Err(Error::new(
                ErrorKind::Config,
                "batches are handled one after the other: `concurrency` must be 1",
            )
            .hint("Handle the events of a batch concurrently within the handler, or run more processes"));
        }
        Ok(())
    }

    fn check_order(&self) -> Result<()> {
        let (Some(field), Some(fields)) = (&self.order, self.fields) else { return Ok(()) };
        if fields.iter().any(|known| *known.name == **field) {
            return Ok(());
        }
        let known: Vec<_> = fields.iter().map(|field| field.name).collect();
        Err(Error::new(
            ErrorKind::Config,
            format!("the event has no field `{field}` to order it by"),
        )
        .with("it has", if known.is_empty() { "none".to_owned() } else { known.join(", ") })
        .did_you_mean(field, known))
    }
}

/// Groups events by the transport that carries them: each transport needs a subscription.
pub(crate) fn by_transport(
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
