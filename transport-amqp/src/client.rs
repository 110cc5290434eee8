//! Connections: one for publishing, one for consuming, and one for the results of calls, each opened
//! when it is needed and replaced when it breaks.
//!
//! RabbitMQ stops reading from a publishing connection during a resource alarm, and the acknowledgements
//! of consumers must not wait behind that. It also closes a publishing connection for what is wrong with
//! one message, or for a fault of its own, and the results of other calls must not be lost with it: where
//! they go belongs to a channel.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use lapin::{Connection, ConnectionProperties};
use lightbus_core::{
    Backoff, Error, ErrorKind, Result, SharedClient, Users,
    time::{after, deadline_after},
};
use tokio::time::Instant;

use crate::{
    NAME,
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
    receives: Slot,
    /// The node that is tried first; the next one when it does not answer.
    node: AtomicUsize,
    /// The queues that this process fills with past events.
    filling: Mutex<HashSet<String>>,
    users: Users,
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
            receives: Slot::new("receives"),
            node: AtomicUsize::new(node),
            filling: Mutex::default(),
            users: Users::default(),
        }
    }

    /// Returns the broker's address without secrets, for logs and errors.
    pub(crate) fn broker(&self) -> &str {
        &self.endpoint.broker
    }

    pub(crate) fn filling(&self) -> MutexGuard<'_, HashSet<String>> {
        // Nothing panics while it is locked.
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Returns the connection for the results of calls, and opens it if need be.
    pub(crate) async fn receives(&self) -> Result<Arc<Link>> {
        self.link(&self.receives).await
    }

    /// Returns the connection for consuming, if it is open.
    pub(crate) fn consumes_now(&self) -> Option<Arc<Link>> {
        self.consumes.live()
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
                state.not_before = Some(after(now, wait));
                state.failed = Some((now, error.clone()));
                Err(error)
            }
        }
    }

    /// Connects to the first node that answers.
    async fn connect(&self, purpose: &str) -> Result<Link> {
        let limit = self.endpoint.connect_timeout;
        let deadline = deadline_after(limit);
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

pub(crate) type Handle = lightbus_core::Handle<Client>;

impl SharedClient for Client {
    const NAME: &'static str = NAME;
    const BROKER: &'static str = "RabbitMQ";

    fn address(&self) -> String {
        self.broker().to_owned()
    }

    async fn check(&self) -> Result<()> {
        // A round trip: the connection may be broken without our knowing.
        self.sends().await?.channel().await.map(drop)
    }

    fn users(&self) -> &Users {
        &self.users
    }

    fn release(&self) {
        self.sends.state().link = None;
        self.consumes.state().link = None;
    }
}
