//! Serving an API: calls in, results out.
//!
//! One consumer task for each served API takes calls from the subscription and spawns a task for each.
//! The subscription's credit bounds how many are taken, and a semaphore how many run: after a lost
//! subscription was replaced, calls of both may be there.
//! Each handler task owns its delivery and acknowledges it after the result has been sent, so a worker
//! that dies leaves its calls to their deadlines; they are never run twice.
//!
//! On cut-off, the consumer ends every handler through its [`CancelFlag`] before it closes the
//! subscription. Otherwise closing would wait for deliveries that the handlers hold.

use std::{fmt, future::IntoFuture, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{
    Backoff, Delivery, Error, ErrorKind, FlowControl, Headers, Name, Outcome, RemoteError, Result,
    ResultMessage, RpcMessage, Subscription,
    time::{after, deadline_after},
    transport::ServeSpec,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, timeout_at},
};

#[cfg(feature = "tower")]
use super::layer::{self, Procedures};
use super::{
    handlers::{CancelFlag, Handlers},
    nested::{Current, LocalWorker},
};
use crate::{
    bus::shared::{
        ApiEntry, Bus, Ids, InProgress, Phase, PluginChain, Progress, at, catch_panic, consume,
        until_cut_off, watch_over,
    },
    contract::Service,
    schema::ApiSchema,
};

/// The most calls of an API that run at once in a process, whatever is asked for.
const MOST_CALLS: usize = 1 << 16;
/// The most calls to fetch from the broker at once.
const BATCH: usize = 128;

/// How long plugins may take for a call whose procedure was cut off.
const PLUGINS_AFTER: Duration = Duration::from_secs(1);

/// An API to be served. Await it to start serving.
#[must_use = "an API is served when this is awaited"]
pub struct Serve {
    bus: Bus,
    service: Arc<dyn Service>,
    concurrency: usize,
    timeout: Option<Duration>,
    finish_late: bool,
    #[cfg(feature = "tower")]
    layers: Option<Procedures>,
}

impl Serve {
    /// Sets how many calls of this API run concurrently in this process, in place of the
    /// configuration's `bus.max_calls_at_work` (256). Further calls stay with the broker, where other
    /// processes can take them. Zero counts as one, more than 65,536 as that.
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.clamp(1, MOST_CALLS);
        self
    }

    /// Sets how long a procedure of this API may run in this process, in place of the configuration's
    /// `apis.<api>.procedure_timeout` (none). Without it, a procedure ends at its caller's deadline.
    ///
    /// A procedure that exceeds it is dropped at the await it is suspended in, and its caller, if it
    /// still waits, receives an error that says so. Code that blocks its thread cannot be cut off:
    /// [`Bus::health`] reports it as [`Stuck`](crate::health::Condition::Stuck).
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    /// Lets procedures run on after their callers' deadlines, to finish what they have begun; only
    /// [`timeout`](Self::timeout) then ends them. A result that comes late is discarded, and calls that
    /// they make do not inherit their callers' deadlines.
    ///
    /// By default a procedure is cut off when its caller has given up: work whose result no one
    /// receives would keep its place from calls that are still waited for.
    pub fn finish_late(mut self) -> Self {
        self.finish_late = true;
        self
    }

    /// Wraps all procedures of the API in a tower layer. The layer added last is the outermost.
    ///
    /// A layer receives the call after validation, with its arguments encoded, and returns the encoded
    /// result, which is validated afterwards. An error of the layer is sent to the caller as text; the
    /// procedure's own [`RemoteError`] is sent as it is if the layer passes it on.
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # use std::time::Duration;
    /// # #[lightbus::api(name = "auth")] pub trait Auth { async fn check(&self) -> bool; }
    /// # struct Service; impl Auth for Service { async fn check(&self) -> bool { true } }
    /// # async fn example(bus: &Bus) -> lightbus::Result<()> {
    /// use tower::{limit::ConcurrencyLimitLayer, timeout::TimeoutLayer};
    ///
    /// bus.serve(AuthApi(Service))
    ///     .layer(ConcurrencyLimitLayer::new(10))
    ///     .layer(TimeoutLayer::new(Duration::from_secs(2)))
    ///     .await
    /// # }
    /// ```
    #[cfg(feature = "tower")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: tower::Layer<Procedures>,
        L::Service: tower::Service<RpcMessage, Response = Bytes> + Clone + Send + Sync + 'static,
        <L::Service as tower::Service<RpcMessage>>::Error: Into<layer::BoxError>,
        <L::Service as tower::Service<RpcMessage>>::Future: Send,
    {
        self.layers = Some(layer::around(self.layers.take(), &self.service, layer));
        self
    }
}

impl IntoFuture for Serve {
    type Output = Result<()>;
    type IntoFuture = BoxFuture<'static, Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let api = self.service.contract().name;
            self.start().await.map_err(|error| error.during(format!("serving {api}")))
        })
    }
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve").field("api", &self.service.contract().name).finish_non_exhaustive()
    }
}

impl Bus {
    /// Serves an API. Once this has been awaited, the process answers calls of the API, competing with
    /// all other processes that serve it, and may fire its events. It publishes the API's schema, and
    /// serves until the bus drains.
    ///
    /// # Delivery
    ///
    /// At most once: a call runs in a single process, and never starts after its caller's deadline. If
    /// a procedure panics, the caller receives an error and the service continues. A procedure that
    /// still runs at its caller's deadline, or exceeds its [`timeout`](Serve::timeout), is dropped at
    /// the await it is suspended in, unless it may [finish late](Serve::finish_late).
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if this process serves the API already, if the API's name is
    /// invalid, or if the new version breaks users of the API and `bus.schema.on_incompatible` is
    /// `refuse`; [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the schema may be published although the API is not served.
    pub fn serve(&self, service: impl Service) -> Serve {
        let concurrency = self.inner().config.bus.max_calls_at_work.get() as usize;
        Serve {
            bus: self.clone(),
            service: Arc::new(service),
            concurrency: concurrency.min(MOST_CALLS),
            timeout: None,
            finish_late: false,
            #[cfg(feature = "tower")]
            layers: None,
        }
    }
}

impl Serve {
    async fn start(self) -> Result<()> {
        let inner = self.bus.inner();
        inner.ensure_taking()?;
        let contract = self.service.contract();
        let api: Name = contract.name.into();
        let served = inner
            .reserve_served(&api)
            .ok_or_else(|| Error::new(ErrorKind::Config, "this process already serves the API"))?;
        let entry = inner.apis.entry(&api);
        let worker = Arc::new(Worker {
            entry: Arc::clone(&entry),
            service: self.service,
            timeout: self.timeout.or(entry.config.procedure_timeout),
            finish_late: self.finish_late,
            flow: inner.flow(BATCH.min(self.concurrency), self.concurrency),
            ids: Arc::clone(&inner.ids),
            schema: std::sync::OnceLock::new(),
            progress: Progress::worker(&api),
            plugins: Arc::clone(&inner.plugins),
            #[cfg(feature = "tower")]
            layers: self.layers,
        });
        let started = async {
            entry.open().await?;
            self.bus.register(contract).await?;
            if inner.features.rpcs { worker.subscribe().await.map(Some) } else { Ok(None) }
        };
        let subscription = started.await.map_err(|error| at(&*entry.rpc, error))?;
        served.keep();
        if let Some(schema) = inner.schema.get(&api) {
            let _ = worker.schema.set(schema);
        }
        let Some(subscription) = subscription else {
            tracing::info!(%api, "the feature `rpcs` is off: this process does not take calls of the API");
            return Ok(());
        };
        let phase = inner.watch();
        {
            let local: Arc<dyn LocalWorker> = Arc::clone(&worker) as _;
            let mut state = inner.state();
            state.progress.push(Arc::clone(&worker.progress));
            state.workers.insert(api, Arc::downgrade(&local));
        }
        let (watched, watching) = (Arc::downgrade(&worker), Arc::clone(&worker.progress));
        let watched_phase = phase.clone();
        inner.spawn_internal(&format!("watchdog of worker {}", entry.name), move || {
            let watched = watched.clone();
            watch_over(Arc::clone(&watching), watched_phase.clone(), move || {
                let worker = watched.upgrade()?;
                Some(async move { worker.entry.rpc.backlog(&worker.entry.name).await })
            })
        });
        let opener = Arc::clone(&worker);
        inner.spawn_consumer(
            Arc::clone(&worker.progress),
            subscription,
            move || {
                let worker = Arc::clone(&opener);
                async move { worker.subscribe().await }
            },
            move |subscription| Arc::clone(&worker).work(subscription, phase.clone()),
        );
        Ok(())
    }
}

struct Worker {
    entry: Arc<ApiEntry>,
    service: Arc<dyn Service>,
    timeout: Option<Duration>,
    finish_late: bool,
    flow: FlowControl,
    ids: Arc<Ids>,
    schema: std::sync::OnceLock<Arc<ApiSchema>>,
    progress: Arc<Progress>,
    plugins: Arc<dyn PluginChain>,
    #[cfg(feature = "tower")]
    layers: Option<Procedures>,
}

impl Worker {
    async fn subscribe(&self) -> Result<Subscription<RpcMessage>> {
        let spec = ServeSpec { apis: vec![Name::clone(&self.entry.name)], flow: self.flow };
        self.entry.rpc.serve(spec).await
    }

    /// Takes calls and runs each in a task of its own, until the bus drains.
    async fn work(self: Arc<Self>, first: Subscription<RpcMessage>, phase: watch::Receiver<Phase>) {
        let handlers = Handlers::default();
        let slots = Arc::new(Semaphore::new(self.flow.max_in_flight));
        let consumer = consume(
            first,
            phase.clone(),
            &self.progress,
            || self.subscribe(),
            |mut deliveries| {
                let (worker, slots, handlers) = (&self, &slots, &handlers);
                async move {
                    for delivery in deliveries.drain(..) {
                        let slot = match Arc::clone(slots).try_acquire_owned() {
                            Ok(slot) => Ok(slot),
                            Err(_) => Arc::clone(slots).acquire_owned().await,
                        };
                        // Never closed.
                        let Ok(slot) = slot else { break };
                        tokio::spawn(Arc::clone(worker).handle(delivery, handlers.flag(), slot));
                    }
                    deliveries
                }
            },
        );
        until_cut_off(consumer, phase, async || handlers.end()).await;
    }

    async fn handle(
        self: Arc<Self>,
        delivery: Delivery<RpcMessage>,
        handlers: Arc<CancelFlag>,
        _slot: OwnedSemaphorePermit,
    ) {
        let call = delivery.message;
        // The deadline passed while the call waited for this task to run: its caller has given up.
        if Instant::now() >= call.deadline {
            tracing::debug!(api = %call.api, procedure = %call.procedure, id = %call.id, "a call expired before it could run");
            delivery.ack.settle_later(Outcome::Done);
            return;
        }
        let limit = Limit::of(&call, self.timeout, self.finish_late);
        let begun = self.begin(limit.as_ref());
        let run = catch_panic(self.run(&call, limit.as_ref()));
        let Some(body) = handlers.run(run).await else { return };
        let body = body.unwrap_or_else(|panic| Err(panicked(&call, &panic)));
        // The broker's time, not the procedure's.
        begun.rests();
        // After the caller's deadline no one receives the result.
        if Instant::now() < call.deadline
            && let Err(panic) = catch_panic(self.reply(&call, body)).await
        {
            tracing::error!(
                api = %call.api, procedure = %call.procedure, id = %call.id, panic,
                "a result was not sent: the transport panicked"
            );
        }
        delivery.ack.settle_later(Outcome::Done);
    }

    fn begin(&self, limit: Option<&Limit>) -> InProgress<'_> {
        match limit {
            Some(limit) => self.progress.began_until(limit.at),
            None => self.progress.began(),
        }
    }

    async fn run(&self, call: &RpcMessage, limit: Option<&Limit>) -> Result<Bytes, RemoteError> {
        if self.plugins.is_empty() {
            return self.execute(call, limit).await;
        }
        // Boxed: without plugins, the future stays small.
        let run = Box::pin(self.execute_with_plugins(call, limit));
        match limit {
            // Plugins see a procedure that is cut off. One that hangs itself is cut off a little later.
            Some(limit) => match timeout_at(after(limit.at, PLUGINS_AFTER), run).await {
                Ok(done) => done,
                Err(_) => Err(limit.exceeded(call)),
            },
            None => run.await,
        }
    }

    async fn execute(
        &self,
        call: &RpcMessage,
        limit: Option<&Limit>,
    ) -> Result<Bytes, RemoteError> {
        self.entry.check_size(&call.fields).map_err(|error| refuse(call, error))?;
        let schema = self.schema.get();
        if let (true, Some(schema)) = (self.entry.config.validate.incoming, schema) {
            schema
                .check_call(&call.procedure, &call.fields)
                .map_err(|error| refuse(call, error))?;
        }
        let value = match limit {
            // The timer is set only if the procedure suspends.
            Some(limit) => {
                let current = Current::get().unwrap_or_default();
                let procedure = current.handle(Some(limit.at), self.procedure(call));
                let ended = timeout_at(limit.at, procedure).await;
                ended.unwrap_or_else(|_| Err(limit.exceeded(call)))?
            }
            None => {
                let current = Current::get().unwrap_or_default();
                current.handle(None, self.procedure(call)).await?
            }
        };
        self.entry.check_result_size(&value).map_err(|error| refuse(call, error))?;
        if let (true, Some(schema)) = (self.entry.config.validate.outgoing, schema) {
            schema.check_result(&call.procedure, &value).map_err(|error| refuse(call, error))?;
        }
        Ok(value)
    }

    async fn procedure(&self, call: &RpcMessage) -> Result<Bytes, RemoteError> {
        #[cfg(feature = "tower")]
        if let Some(layers) = &self.layers {
            return layer::call(layers, call).await;
        }
        self.service.call(&call.procedure, &call.fields).await
    }

    async fn execute_with_plugins(
        &self,
        call: &RpcMessage,
        limit: Option<&Limit>,
    ) -> Result<Bytes, RemoteError> {
        let mut call = call.clone();
        let asked = self.plugins.before_rpc_execution(&mut call).await;
        asked.map_err(|error| refuse(&call, error))?;
        let body = catch_panic(self.execute(&call, limit)).await;
        let mut result = ResultMessage {
            id: self.ids.next(),
            rpc_id: Name::clone(&call.id),
            headers: Headers::new(),
            body: body.unwrap_or_else(|panic| Err(panicked(&call, &panic))),
        };
        let asked = self.plugins.after_rpc_execution(&call, &mut result).await;
        asked.map_err(|error| refuse(&call, error))?;
        result.body
    }

    /// Sends the result. Retries while the broker is unavailable, until the caller's deadline.
    async fn reply(&self, call: &RpcMessage, body: Result<Bytes, RemoteError>) {
        let message = ResultMessage {
            id: self.ids.next(),
            rpc_id: Name::clone(&call.id),
            headers: Headers::new(),
            body,
        };
        let mut tries = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let began = Instant::now();
        let error = loop {
            let reply = self.entry.result.reply(&call.return_path, message.clone());
            let limit = call.deadline.max(deadline_after(Duration::from_secs(1)));
            match timeout_at(limit, reply).await {
                Ok(Ok(())) => return,
                Ok(Err(error)) if error.is_temporary() && Instant::now() < call.deadline => {
                    sleep(tries.failed()).await;
                }
                Ok(Err(error)) => break error,
                Err(_) => {
                    break Error::timeout("the broker did not accept the result", began.elapsed());
                }
            }
        };
        tracing::warn!(%error, api = %call.api, procedure = %call.procedure, id = %call.id, "a result could not be sent");
        if error.kind() == ErrorKind::TooLarge {
            let body = Err(RemoteError { message: error.to_string(), ..RemoteError::default() });
            let _ =
                self.entry.result.reply(&call.return_path, ResultMessage { body, ..message }).await;
        }
    }
}

impl LocalWorker for Worker {
    fn is_full(&self) -> bool {
        self.progress.in_progress() >= self.flow.max_in_flight as u64
    }

    fn run_in_place(
        self: Arc<Self>,
        call: RpcMessage,
    ) -> BoxFuture<'static, Result<Bytes, RemoteError>> {
        Box::pin(async move {
            let limit = Limit::of(&call, self.timeout, self.finish_late);
            let _begun = self.begin(limit.as_ref());
            let body = catch_panic(self.run(&call, limit.as_ref())).await;
            body.unwrap_or_else(|panic| Err(panicked(&call, &panic)))
        })
    }
}

/// When a procedure is cut off.
struct Limit {
    began: Instant,
    at: Instant,
    /// The service's time limit, unless the caller's deadline comes first.
    own: Option<Duration>,
}

impl Limit {
    /// The earlier of the service's time limit and the caller's deadline. `None` for a procedure that
    /// may take any time.
    fn of(call: &RpcMessage, own: Option<Duration>, finish_late: bool) -> Option<Self> {
        let began = Instant::now();
        let own = own.map(|limit| (deadline_after(limit), Some(limit)));
        let callers = (!finish_late).then_some((call.deadline, None));
        let (at, own) = own.into_iter().chain(callers).min_by_key(|(at, _)| *at)?;
        Some(Self { began, at, own })
    }

    /// Logs that the procedure was cut off, and returns what its caller is told.
    fn exceeded(&self, call: &RpcMessage) -> RemoteError {
        let after = self.began.elapsed();
        let why = match self.own {
            Some(limit) => format!("the procedure did not return within {limit:?}"),
            None => "the procedure did not return before its caller's deadline".to_owned(),
        };
        tracing::error!(
            api = %call.api, procedure = %call.procedure, id = %call.id, ?after,
            "a procedure was cut off: {why}"
        );
        RemoteError { message: why, ..RemoteError::default() }
    }
}

/// The answer to a call that is not executed, or whose result is not sent.
fn refuse(call: &RpcMessage, error: Error) -> RemoteError {
    let error = error.during(format!("{}.{} was called", call.api, call.procedure));
    tracing::warn!(%error, id = %call.id, "a call was refused");
    RemoteError { message: error.to_string(), ..RemoteError::default() }
}

fn panicked(call: &RpcMessage, panic: &str) -> RemoteError {
    tracing::error!(api = %call.api, procedure = %call.procedure, panic, "a procedure panicked");
    RemoteError { message: format!("the procedure panicked: {panic}"), ..RemoteError::default() }
}
