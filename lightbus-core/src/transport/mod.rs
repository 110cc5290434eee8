//! The four traits that a transport implements, and what all four have in common.
//!
//! | trait | carries | guarantee |
//! | --- | --- | --- |
//! | [`RpcTransport`] | calls to workers | at most once; never executed after the caller's deadline |
//! | [`ResultTransport`] | answers to callers | at most one per call |
//! | [`EventTransport`] | events to listeners | at least once per listener name |
//! | [`SchemaTransport`] | API descriptions to everybody | visible until the time to live ends |
//!
//! **Names.** An API is named by words with single dots between them, a procedure or an event by one word
//! ([`name`](crate::name) has the rules): any character of Unicode but white space, control characters,
//! `:` and `*`, and any length. Services, listeners, processes, keys, headers and arguments may have any
//! name. A broker that takes less needs an escape such as [`safe_name`](crate::broker::safe_name).
//!
//! A broker that can publish, fetch and settle needs none of these traits implemented:
//! [`broker`](crate::broker) does that.
//!
//! Each promise in their documentation names the case of the conformance suite (feature
//! `conformance`) that holds a transport to it. What a transport cannot do it says in
//! [`Capabilities`], and answers with [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported).

mod dead_letters;
mod event;
mod group;
mod inspect;
mod result;
mod rpc;
mod schema;

use std::{fmt, time::Duration};

pub use dead_letters::{DeadLetter, DeadLetters};
pub use event::{EventSelector, EventTransport, HistorySpec, Lag, ListenSpec, Start};
pub use group::GroupSpec;
pub use inspect::{Consumer, Finding, Group, Inspect, Location, Severity};
pub use result::ResultTransport;
pub use rpc::{RpcTransport, ServeSpec};
pub use schema::SchemaTransport;

use async_trait::async_trait;

use crate::Result;

/// What a transport can do beyond the traits' common promises.
///
/// Declared once by the transport, checked before a service relies on it, and tested both ways:
/// what is absent answers `Unsupported` and is never silently ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Events, once confirmed, outlive the process that sent them.
    pub durable: bool,
    /// Events of one stream reach a listener that one process runs in the order in which they were
    /// confirmed. Several processes of a listener share its events, and handle them side by side.
    pub ordered: bool,
    /// Events with one key reach a listener in the order in which they were confirmed, also across its
    /// processes: never two of them at once. Together with [`ordered`](Self::ordered), so do events
    /// without a key: one process consumes at a time.
    pub ordered_by_key: bool,
    /// A new listener can start before now: [`Start::Earliest`] and [`Start::Since`].
    pub replay: bool,
    /// [`EventTransport::history`] answers.
    pub history: bool,
    /// [`EventTransport::lag`] answers.
    pub lag: bool,
    /// [`RpcTransport::backlog`] answers.
    pub backlog: bool,
    /// A rejected event is kept, and [`EventTransport::dead_letters`] gives access to it.
    pub dead_letters: bool,
    /// Other processes can reach what this one sends.
    pub shared: bool,
    /// A process that comes back under its old name ([`ListenSpec::process`]) gets at once, and before
    /// anything newer, the events that it held when it died. Without this they are redelivered to any
    /// process of the group, when the acknowledgement timeout is over.
    pub resumes: bool,
}

/// Builds capabilities: `Capabilities::new().ordered(true).lag(true)`.
impl Capabilities {
    /// No capability. Those that are added to this struct in future are absent, too.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            durable: false,
            ordered: false,
            ordered_by_key: false,
            replay: false,
            history: false,
            lag: false,
            backlog: false,
            dead_letters: false,
            shared: false,
            resumes: false,
        }
    }

    /// Sets [`durable`](Self#structfield.durable).
    #[must_use]
    pub const fn durable(mut self, has: bool) -> Self {
        self.durable = has;
        self
    }

    /// Sets [`ordered`](Self#structfield.ordered).
    #[must_use]
    pub const fn ordered(mut self, has: bool) -> Self {
        self.ordered = has;
        self
    }

    /// Sets [`ordered_by_key`](Self#structfield.ordered_by_key).
    #[must_use]
    pub const fn ordered_by_key(mut self, has: bool) -> Self {
        self.ordered_by_key = has;
        self
    }

    /// Sets [`replay`](Self#structfield.replay).
    #[must_use]
    pub const fn replay(mut self, has: bool) -> Self {
        self.replay = has;
        self
    }

    /// Sets [`history`](Self#structfield.history).
    #[must_use]
    pub const fn history(mut self, has: bool) -> Self {
        self.history = has;
        self
    }

    /// Sets [`lag`](Self#structfield.lag).
    #[must_use]
    pub const fn lag(mut self, has: bool) -> Self {
        self.lag = has;
        self
    }

    /// Sets [`backlog`](Self#structfield.backlog).
    #[must_use]
    pub const fn backlog(mut self, has: bool) -> Self {
        self.backlog = has;
        self
    }

    /// Sets [`dead_letters`](Self#structfield.dead_letters).
    #[must_use]
    pub const fn dead_letters(mut self, has: bool) -> Self {
        self.dead_letters = has;
        self
    }

    /// Sets [`shared`](Self#structfield.shared).
    #[must_use]
    pub const fn shared(mut self, has: bool) -> Self {
        self.shared = has;
        self
    }

    /// Sets [`resumes`](Self#structfield.resumes).
    #[must_use]
    pub const fn resumes(mut self, has: bool) -> Self {
        self.resumes = has;
        self
    }
}

impl Capabilities {
    /// Each capability with its name, in the order of the fields.
    pub fn iter(self) -> impl Iterator<Item = (&'static str, bool)> {
        [
            ("durable", self.durable),
            ("ordered", self.ordered),
            ("ordered_by_key", self.ordered_by_key),
            ("replay", self.replay),
            ("history", self.history),
            ("lag", self.lag),
            ("dead_letters", self.dead_letters),
            ("shared", self.shared),
            ("resumes", self.resumes),
        ]
        .into_iter()
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let present: Vec<_> = self.iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        f.write_str(&present.join(", "))
    }
}

/// What the four traits have in common.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// The name under which the configuration selects the transport, such as `redis`.
    fn name(&self) -> &'static str;

    /// Which broker it speaks to, for people, without secrets: `127.0.0.1:6379/0`.
    fn broker(&self) -> String;

    /// What it can do. The same answer for as long as the transport lives.
    fn capabilities(&self) -> Capabilities;

    /// What tells people about the broker, if the transport has it.
    fn inspect(&self) -> Option<&dyn Inspect> {
        None
    }

    /// Connects, and checks that the broker serves. May be called again: then it checks again.
    ///
    /// The bus calls it before anything else. An operation may come without it all the same, and after
    /// it failed: it then connects by itself, or fails as
    /// [`Unavailable`](crate::ErrorKind::Unavailable) (case `open_without_a_broker_is_unavailable`).
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable), which may be retried, if no broker answers
    /// within the transport's connection timeout (case `open_without_a_broker_is_unavailable`).
    ///
    /// # Cancel safety
    ///
    /// May be dropped; a connection made by then is kept or closed.
    async fn open(&self) -> Result<()>;

    /// Ends what the transport runs and gives its connections back.
    ///
    /// Subscriptions end: each hands out one [`Closed`](crate::ErrorKind::Closed), or ends at once (case
    /// `closing_ends_what_waits`). Calls that wait for a result fail with
    /// [`Closed`](crate::ErrorKind::Closed), and so does every later operation. Closing twice is fine
    /// (case `closing_twice_is_fine`).
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves the transport closed; connections may end a little later.
    async fn close(&self) -> Result<()>;
}

/// How much a subscription takes before it waits for what it took to be settled: back-pressure
/// that reaches the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowControl {
    /// The most messages to ask the broker for at once.
    pub batch: usize,
    /// The most messages handed out, or waiting to be, and not settled.
    pub max_in_flight: usize,
    /// The most bytes of such messages, as far as the transport knows their size: 64 MiB. One message
    /// is always taken, however large.
    pub max_bytes: usize,
    /// How many messages the consumer handles at once, where that is known. The subscription then
    /// takes ahead what is handled in about a second, at least this many and never more than
    /// [`max_in_flight`](Self::max_in_flight). `None` takes as much as that allows.
    pub concurrency: Option<usize>,
    /// How long [`Subscription::close`](crate::Subscription::close) waits for deliveries that are
    /// still held. After it they count as given back.
    pub close_timeout: Duration,
}

/// The most messages that may be in flight, whatever is asked for: each takes a place in a queue.
const MOST_IN_FLIGHT: usize = 1 << 16;
const MAX_BYTES: usize = 64 << 20;

impl FlowControl {
    /// At most `max_in_flight` unsettled messages, asked for in batches of at most `batch`. Zeros
    /// count as one, more than 65,536 as that.
    #[must_use]
    pub fn new(batch: usize, max_in_flight: usize) -> Self {
        Self {
            batch: batch.clamp(1, MOST_IN_FLIGHT),
            max_in_flight: max_in_flight.clamp(1, MOST_IN_FLIGHT),
            max_bytes: MAX_BYTES,
            concurrency: None,
            close_timeout: Duration::from_secs(10),
        }
    }

    /// Takes ahead only what so many handlers do in about a second.
    #[must_use]
    pub fn for_handlers(mut self, concurrency: usize) -> Self {
        self.concurrency = Some(concurrency.clamp(1, self.max_in_flight));
        self
    }

    /// Takes ahead what [`max_in_flight`](Self::max_in_flight) allows: for what stands over another
    /// subscription, which takes ahead as it should.
    #[must_use]
    pub fn fixed(mut self) -> Self {
        self.concurrency = None;
        self
    }

    /// Sets [`close_timeout`](Self::close_timeout).
    #[must_use]
    pub fn close_within(mut self, limit: Duration) -> Self {
        self.close_timeout = limit;
        self
    }
}
