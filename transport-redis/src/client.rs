//! Connections: one for all sends, opened when it is needed and replaced when it breaks, and one for
//! each blocking read.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lightbus_core::{Backoff, Error, ErrorKind, Result, SharedClient, Users, time::after};
use redis::{AsyncConnectionConfig, PushInfo, PushKind};
use tokio::time::Instant;

use crate::{
    NAME,
    endpoint::{Endpoint, Target},
    error::{Sent, breaks_connection, from_redis, odd_answer, too_old},
    link::{Link, Server, Wire},
    value,
};

/// After a failed connection attempt, callers get the same error at once for this long; doubled with
/// each failure, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(20);
const LONGEST_WAIT: Duration = Duration::from_millis(500);

/// One Redis, shared by all transports with equal connection options.
pub(crate) struct Client {
    endpoint: Endpoint,
    state: Mutex<State>,
    /// Locked while connecting, so that many callers open one connection.
    connecting: tokio::sync::Mutex<()>,
    users: Users,
}

struct State {
    shared: Option<Arc<Link>>,
    failed: Option<(Instant, Error)>,
    /// When the next connection attempt may begin.
    not_before: Option<Instant>,
    backoff: Backoff,
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            state: Mutex::new(State {
                shared: None,
                failed: None,
                not_before: None,
                backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT),
            }),
            connecting: tokio::sync::Mutex::new(()),
            users: Users::default(),
        }
    }

    /// Returns the broker's address without secrets, for logs and errors.
    pub(crate) fn broker(&self) -> &str {
        &self.endpoint.broker
    }

    /// Whether keys may live on different servers.
    pub(crate) fn is_cluster(&self) -> bool {
        #[cfg(feature = "cluster")]
        if matches!(self.endpoint.target, Target::Cluster(_)) {
            return true;
        }
        false
    }

    /// Returns the connection for sends, and opens it if need be.
    pub(crate) async fn shared(&self) -> Result<Arc<Link>> {
        if let Some(link) = self.live() {
            return Ok(link);
        }
        // Boxed: the future of a connection attempt is large, and would be part of every send's.
        Box::pin(self.make_shared()).await
    }

    async fn make_shared(&self) -> Result<Arc<Link>> {
        let asked = Instant::now();
        let _turn = self.connecting.lock().await;
        if let Some(link) = self.live() {
            return Ok(link);
        }
        // Another caller tried while this one waited for its turn, or just before.
        {
            let state = self.state();
            if let Some((when, error)) = &state.failed
                && (*when >= asked || state.not_before.is_some_and(|until| until > asked))
            {
                return Err(error.clone());
            }
        }
        let made = self.connect(Some(self.endpoint.response_timeout)).await;
        let mut state = self.state();
        match made {
            Ok(link) => {
                let link = Arc::new(link);
                state.shared = Some(Arc::clone(&link));
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

    fn live(&self) -> Option<Arc<Link>> {
        let mut state = self.state();
        match &state.shared {
            Some(link) if link.is_alive() => Some(Arc::clone(link)),
            Some(_) => {
                state.shared = None;
                None
            }
            None => None,
        }
    }

    /// Opens a connection of its own to the server that has this key, for blocking reads. It has no
    /// response timeout: the reader sets its own limits.
    pub(crate) async fn dedicated(&self, key: &str) -> Result<Link> {
        #[cfg(feature = "cluster")]
        if let Target::Cluster(nodes) = &self.endpoint.target {
            let shared = self.shared().await?;
            let client = nodes.client_for(&shared, key).await?;
            return self.connect_to(&client, None).await;
        }
        let _ = key;
        self.connect(None).await
    }

    /// Sends a command without a key to the server that has `key`.
    pub(crate) async fn command_at(&self, key: &str, command: &redis::Cmd) -> Result<redis::Value> {
        if self.is_cluster() {
            let link = self.dedicated(key).await?;
            let answer = self.in_time(async { Ok(link.command(command).await) }).await?;
            return answer.map_err(|error| from_redis(error, self.broker(), Sent::Harmless));
        }
        self.command(command, Sent::Harmless).await
    }

    async fn connect(&self, response_timeout: Option<Duration>) -> Result<Link> {
        match &self.endpoint.target {
            Target::Single(client) => self.connect_to(client, response_timeout).await,
            #[cfg(feature = "sentinel")]
            Target::Sentinel(watched) => {
                let find = watched.primary();
                let client = self.in_time(find).await?;
                self.connect_to(&client, response_timeout).await
            }
            #[cfg(feature = "cluster")]
            Target::Cluster(nodes) => {
                let connect = async {
                    let wire = nodes.connect(&self.endpoint).await?;
                    self.identify(wire, Arc::new(AtomicBool::new(true))).await
                };
                self.in_time(connect).await
            }
        }
    }

    async fn connect_to(
        &self,
        client: &redis::Client,
        response_timeout: Option<Duration>,
    ) -> Result<Link> {
        let alive = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&alive);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.endpoint.connect_timeout))
            .set_response_timeout(response_timeout)
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    flag.store(false, Ordering::Release);
                }
                Ok::<(), redis::aio::SendError>(())
            });
        let connect = async {
            let connection = client
                .get_multiplexed_async_connection_with_config(&config)
                .await
                .map_err(|error| from_redis(error, self.broker(), Sent::No))?;
            self.identify(Wire::Single(connection), alive).await
        };
        self.in_time(connect).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.endpoint.connect_timeout;
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "Redis did not answer")
                .with("broker", format_args!("redis {}", self.broker()))
                .with("limit", format_args!("{limit:?}"))
                .hint("Is the address right, and reachable from here?"))
        })
    }

    /// Checks the server's version and role, and which commands it has.
    async fn identify(&self, wire: Wire, alive: Arc<AtomicBool>) -> Result<Link> {
        let hello = redis::cmd("HELLO");
        let answer = wire
            .command(&hello)
            .await
            .map_err(|error| from_redis(error, self.broker(), Sent::No))?;
        let Some(facts) = value::pairs(answer.clone()) else {
            return Err(odd_answer("HELLO", &answer));
        };
        let version = value::get(&facts, "version").and_then(value::text).unwrap_or("unknown");
        let numbers = parse_version(version);
        let mut look = redis::cmd("COMMAND");
        look.arg("INFO").arg("BLMPOP");
        let has_blmpop = numbers.0 >= 7
            && match wire.command(&look).await {
                Ok(answer) => value::items(answer)
                    .is_some_and(|known| known.iter().any(|command| *command != redis::Value::Nil)),
                // `COMMAND` is not permitted: rely on the version.
                Err(error) => !breaks_connection(&error),
            };
        let server = Server {
            version: numbers,
            id: value::get(&facts, "id").and_then(value::int).unwrap_or(0),
            has_blmpop,
        };
        if server.version < (6, 2) {
            return Err(too_old(version).with("broker", format_args!("redis {}", self.broker())));
        }
        let role = value::get(&facts, "role").and_then(value::text);
        if !self.is_cluster() && matches!(role, Some("replica" | "slave")) {
            return Err(Error::new(ErrorKind::Unavailable, "this Redis is a replica")
                .with("broker", format_args!("redis {}", self.broker()))
                .hint("Set the primary's address in `url`, or let `sentinel` find it"));
        }
        Ok(Link::new(wire, alive, server))
    }

    /// Marks a connection as broken. The next send opens a new one.
    pub(crate) fn failed(&self, link: &Arc<Link>) {
        link.mark_broken();
        let mut state = self.state();
        if state.shared.as_ref().is_some_and(|shared| Arc::ptr_eq(shared, link)) {
            state.shared = None;
        }
    }

    /// Maps the error of a command on this connection, and marks the connection as broken if it is.
    pub(crate) fn explain(&self, link: &Arc<Link>, error: redis::RedisError, sent: Sent) -> Error {
        if breaks_connection(&error) {
            self.failed(link);
        }
        from_redis(error, self.broker(), sent)
    }

    /// Sends one command on the shared connection.
    pub(crate) async fn command(&self, command: &redis::Cmd, sent: Sent) -> Result<redis::Value> {
        let link = self.shared().await?;
        link.command(command).await.map_err(|error| self.explain(&link, error, sent))
    }

    /// Sends several commands at once on the shared connection. Each has its own answer, or its own
    /// error instead.
    pub(crate) async fn pipeline(
        &self,
        pipeline: &redis::Pipeline,
        sent: Sent,
    ) -> Result<Vec<redis::Value>> {
        let link = self.shared().await?;
        let answers =
            link.pipeline(pipeline).await.map_err(|error| self.explain(&link, error, sent))?;
        // The server was the primary, and has become a replica.
        if answers.iter().any(crate::error::is_from_replica) {
            self.failed(&link);
        }
        Ok(answers)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.broker()).finish()
    }
}

fn parse_version(text: &str) -> (u16, u16) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

pub(crate) type User = lightbus_core::User<Client>;
pub(crate) type Handle = lightbus_core::Handle<Client>;

impl SharedClient for Client {
    const NAME: &'static str = NAME;
    const BROKER: &'static str = "Redis";

    fn address(&self) -> String {
        self.broker().to_owned()
    }

    async fn check(&self) -> Result<()> {
        self.command(&redis::cmd("PING"), Sent::Harmless).await.map(drop)
    }

    fn users(&self) -> &Users {
        &self.users
    }

    fn release(&self) {
        self.state().shared = None;
    }
}
