//! Connections: one for publishing and one for consuming, each opened when it is needed and replaced
//! when it breaks.
//!
//! Two, because RabbitMQ stops reading from a publishing connection during a resource alarm, and the
//! acknowledgements of consumers must not wait behind that.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use lapin::{Connection, ConnectionProperties};
use lightbus_core::{Backoff, Error, ErrorKind, Result};
use tokio::{sync::Notify, time::Instant};

use crate::{
    endpoint::Endpoint,
    error::{Sent, from_lapin},
    link::Link,
};

/// After a failed connection attempt, callers get the same error at once for this long; doubled with
/// each failure, up to the longest.
const FIRST_WAIT: std::time::Duration = std::time::Duration::from_millis(20);
const LONGEST_WAIT: std::time::Duration = std::time::Duration::from_millis(500);

/// One RabbitMQ, shared by all transports with equal connection options.
pub(crate) struct Client {
    endpoint: Endpoint,
    sends: Slot,
    consumes: Slot,
    /// The node that is tried first; the next one when it does not answer.
    node: AtomicUsize,
    users: AtomicUsize,
}

/// A connection, if there is one, and its last failure.
struct Slot {
    purpose: &'static str,
    state: Mutex<State>,
    /// Locked while connecting, so that many callers open one connection.
    connecting: tokio::sync::Mutex<()>,
}

struct State {
    link: Option<Arc<Link>>,
    failed: Option<(Instant, Error)>,
    /// When the next connection attempt may begin.
    not_before: Option<Instant>,
    backoff: Backoff,
}

impl Slot {
    fn new(purpose: &'static str) -> Self {
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        let state = State { link: None, failed: None, not_before: None, backoff };
        Self { purpose, state: Mutex::new(state), connecting: tokio::sync::Mutex::new(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> Option<Arc<Link>> {
        let mut state = self.state();
        match &state.link {
            Some(link) if link.is_alive() => Some(Arc::clone(link)),
            Some(_) => {
                state.link = None;
                None
            }
            None => None,
        }
    }
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        // Random, so that the processes of a service spread over the nodes.
        let node = std::hash::BuildHasher::hash_one(
            &std::collections::hash_map::RandomState::new(),
            &endpoint.broker,
        );
        let node = usize::try_from(node % endpoint.uris.len() as u64).unwrap_or(0);
        Self {
            endpoint,
            sends: Slot::new("sends"),
            consumes: Slot::new("consumes"),
            node: AtomicUsize::new(node),
            users: AtomicUsize::new(0),
        }
    }

    /// Returns the broker's address without secrets, for logs and errors.
    pub(crate) fn broker(&self) -> &str {
        &self.endpoint.broker
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn response_timeout(&self) -> std::time::Duration {
        self.endpoint.response_timeout
    }

    /// Returns the connection for publishing, and opens it if need be.
    pub(crate) async fn sends(&self) -> Result<Arc<Link>> {
        self.link(&self.sends).await
    }

    /// Returns the connection for consuming, and opens it if need be.
    pub(crate) async fn consumes(&self) -> Result<Arc<Link>> {
        self.link(&self.consumes).await
    }

    async fn link(&self, slot: &Slot) -> Result<Arc<Link>> {
        if let Some(link) = slot.live() {
            return Ok(link);
        }
        let asked = Instant::now();
        let _turn = slot.connecting.lock().await;
        if let Some(link) = slot.live() {
            return Ok(link);
        }
        // Another caller tried while this one waited for its turn, or just before.
        {
            let state = slot.state();
            if let Some((when, error)) = &state.failed
                && (*when >= asked || state.not_before.is_some_and(|until| until > asked))
            {
                return Err(error.clone());
            }
        }
        let made = self.connect(slot.purpose).await;
        let mut state = slot.state();
        match made {
            Ok(link) => {
                let link = Arc::new(link);
                state.link = Some(Arc::clone(&link));
                state.failed = None;
                state.not_before = None;
                state.backoff.succeeded();
                Ok(link)
            }
            Err(error) => {
                let now = Instant::now();
                let wait = state.backoff.failed();
                state.not_before = Some(now + wait);
                state.failed = Some((now, error.clone()));
                Err(error)
            }
        }
    }

    /// Connects to the first node that answers.
    async fn connect(&self, purpose: &str) -> Result<Link> {
        let limit = self.endpoint.connect_timeout;
        let deadline = Instant::now() + limit;
        let nodes = self.endpoint.uris.len();
        let first = self.node.load(Ordering::Relaxed);
        let mut last = None;
        for turn in 0..nodes {
            let index = (first + turn) % nodes;
            // A node that does not answer must leave time for the others.
            let left = deadline.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(nodes - turn).unwrap_or(1);
            match tokio::time::timeout(share, self.connect_to(index, purpose)).await {
                Ok(Ok(link)) => {
                    self.node.store(index, Ordering::Relaxed);
                    return Ok(link);
                }
                // The next node would answer the same.
                Ok(Err(error)) if !error.is_temporary() => return Err(error),
                Ok(Err(error)) => last = Some(error),
                Err(_) => {
                    last.get_or_insert_with(|| {
                        Error::new(ErrorKind::Unavailable, "RabbitMQ did not answer")
                            .with("broker", format_args!("rabbitmq {}", self.broker()))
                            .with("limit", format_args!("{limit:?}"))
                            .hint("Is the address right, and reachable from here?")
                    });
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            Error::new(ErrorKind::Unavailable, "there is no node to connect to")
        }))
    }

    async fn connect_to(&self, index: usize, purpose: &str) -> Result<Link> {
        let uri = self.endpoint.uris[index].clone();
        let name = format!("{} ({purpose}, {})", self.endpoint.connection_name, std::process::id());
        let properties = ConnectionProperties::default()
            .with_connection_name(name.into())
            .with_client_property("product".into(), "lightbus".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into());
        let runtime = lapin::runtime::default_runtime()
            .map_err(|error| from_lapin(error, self.broker(), Sent::No))?;
        let tls = self.endpoint.tls.to_config();
        let connection = Connection::connect_uri_with_config(uri, properties, tls, runtime)
            .await
            .map_err(|error| from_lapin(error, self.broker(), Sent::No))?;
        Ok(Link::new(connection, self.endpoint.response_timeout, self.broker()))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.broker()).finish()
    }
}

/// One who uses a client. When the last is gone, so are its connections.
#[derive(Debug)]
pub(crate) struct User(Arc<Client>);

impl User {
    fn new(client: Arc<Client>) -> Self {
        client.users.fetch_add(1, Ordering::AcqRel);
        Self(client)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        if self.0.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.sends.state().link = None;
            self.0.consumes.state().link = None;
        }
    }
}

/// A transport's own part of a client, which it can close.
#[derive(Debug)]
pub(crate) struct Handle {
    client: Arc<Client>,
    user: Mutex<Option<User>>,
    closing: Arc<Closing>,
}

/// Says when a transport is closed.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    closed: AtomicBool,
    notify: Notify,
}

impl Closing {
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Waits until it is closed.
    pub(crate) async fn closed(&self) {
        let notified = self.notify.notified();
        if !self.is_closed() {
            notified.await;
        }
    }
}

impl Handle {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self {
            user: Mutex::new(Some(User::new(Arc::clone(&client)))),
            client,
            closing: Arc::default(),
        }
    }

    /// The client, unless the transport is closed.
    pub(crate) fn client(&self, what: &'static str) -> Result<&Arc<Client>> {
        if self.closing.is_closed() { Err(Error::closed(what)) } else { Ok(&self.client) }
    }

    pub(crate) fn broker(&self) -> String {
        self.client.broker().to_owned()
    }

    pub(crate) fn closing(&self) -> &Arc<Closing> {
        &self.closing
    }

    /// Connects, and checks that RabbitMQ serves.
    pub(crate) async fn open(&self, what: &'static str) -> Result<()> {
        let client = self.client(what)?;
        let check = async {
            // A round trip through the broker: it may have gone without our notice.
            drop(client.sends().await?.channel().await?);
            Ok(())
        };
        check.await.map_err(|error: Error| error.during("connecting to RabbitMQ"))
    }

    pub(crate) fn close(&self) {
        self.closing.closed.store(true, Ordering::SeqCst);
        self.closing.notify.notify_waiters();
        drop(self.user.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
