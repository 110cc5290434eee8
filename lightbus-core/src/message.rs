//! What travels: calls, results and events, as names and encoded bytes.

use std::{fmt, sync::Arc, time::SystemTime};

use bytes::Bytes;
use tokio::time::Instant;

use crate::{Result, json::malformed};

/// A name or an id: cheap to clone, never changed.
pub type Name = Arc<str>;

/// Arguments in the order they were given, each encoded once and on its own (as JSON).
///
/// A transport that keeps arguments apart writes the pieces; one that sends a single document
/// joins them. Nothing is encoded twice.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Arguments(Vec<(Name, Bytes)>);

impl Arguments {
    /// No arguments.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for this many arguments.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Adds an argument, already encoded.
    pub fn push(&mut self, name: impl Into<Name>, value: impl Into<Bytes>) {
        self.0.push((name.into(), value.into()));
    }

    /// The encoded argument of this name: of several, the last, as JSON readers do.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().rev().find(|(key, _)| &**key == name).map(|(_, value)| value)
    }

    /// Name and encoded value of each argument, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Name, &Bytes)> + DoubleEndedIterator {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// How many arguments there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of all names and values together.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

impl FromIterator<(Name, Bytes)> for Arguments {
    fn from_iter<I: IntoIterator<Item = (Name, Bytes)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

/// Shows names and sizes: this crate does not know which values must not be seen.
impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |value: &Bytes| format!("{} bytes", value.len());
        f.debug_map().entries(self.0.iter().map(|(name, value)| (name, size(value)))).finish()
    }
}

/// What travels beside a message and is not an argument: trace context, time left, attempt.
///
/// Small and ordered; names are lower case. Where a transport has no headers of its own it finds
/// them another place, which its documentation names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Name, Name)>);

impl Headers {
    /// Milliseconds that were left to the caller when the call was sent.
    ///
    /// A duration rather than a moment, because clocks of machines differ. On the wire alone: the
    /// transport writes it from [`RpcMessage::deadline`] when it sends a call, and reads the deadline
    /// from it when it receives one. The bus does neither.
    pub const TIME_LEFT_MS: &'static str = "time-left-ms";
    /// The trace context of <https://www.w3.org/TR/trace-context/>.
    pub const TRACEPARENT: &'static str = "traceparent";

    /// The most headers that transports read of one message; they leave out the others. Headers are
    /// few by nature, and searched one by one.
    pub const MAX_COUNT: usize = 64;

    /// No headers. Allocates nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The header of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value)
    }

    /// Sets a header, in the place of one of the same name.
    pub fn set(&mut self, name: impl Into<Name>, value: impl Into<Name>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(key, _)| *key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// Removes a header, and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<Name> {
        let index = self.0.iter().position(|(key, _)| &**key == name)?;
        Some(self.0.remove(index).1)
    }

    /// Each header, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Name, &Name)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Where a result goes: text that only the transport which made it understands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReturnPath(Name);

impl ReturnPath {
    /// A return path from its text.
    #[must_use]
    pub fn new(path: impl Into<Name>) -> Self {
        Self(path.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One call of a procedure.
#[derive(Clone, Debug)]
pub struct RpcMessage {
    /// Names this call; opaque, unique, never empty.
    pub id: Name,
    /// The API, by its full dotted name.
    pub api: Name,
    /// The procedure.
    pub procedure: Name,
    /// The arguments.
    pub fields: Arguments,
    /// What travels beside the arguments.
    pub headers: Headers,
    /// Where the result goes.
    pub return_path: ReturnPath,
    /// When the caller gives up. A transport must not hand the call to a worker later than this.
    pub deadline: Instant,
}

impl RpcMessage {
    /// Checks that a call that came as one of the API `served` names this API: the worker of an API
    /// must not run calls of another, which may have a procedure of the same name.
    ///
    /// # Errors
    ///
    /// [`Malformed`](crate::ErrorKind::Malformed) with both names.
    pub fn check_api(named: &str, served: &str) -> Result<()> {
        if named == served {
            return Ok(());
        }
        Err(malformed(format!("it is for the API `{named}` and came as one of `{served}`")))
    }
}

/// The answer to one call.
#[derive(Clone, Debug)]
pub struct ResultMessage {
    /// Names this message.
    pub id: Name,
    /// The id of the call that it answers.
    pub rpc_id: Name,
    /// What travels beside the result.
    pub headers: Headers,
    /// The encoded value, or what went wrong.
    pub body: Result<Bytes, RemoteError>,
}

/// What the code at the other end says of its failure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteError {
    /// What happened, in the words of the other end.
    pub message: String,
    /// Where it happened: text for people.
    pub trace: Option<String>,
    /// The name of the error's type, where the API declares its errors.
    pub name: Option<Name>,
    /// The error itself, encoded, where the API declares its errors.
    pub detail: Option<Bytes>,
}

/// One event.
#[derive(Clone, Debug)]
pub struct EventMessage {
    /// Names this event; opaque, unique, never empty. The same on every delivery.
    pub id: Name,
    /// The API, by its full dotted name.
    pub api: Name,
    /// The event.
    pub event: Name,
    /// The version of the API that fired it.
    pub version: u32,
    /// The arguments.
    pub fields: Arguments,
    /// What travels beside the arguments.
    pub headers: Headers,
    /// Events of one key stay in order, where the transport can.
    pub key: Option<Name>,
    /// The broker's id of the event, as [`send`](crate::transport::EventTransport::send) returned it.
    /// The transport sets it on every delivery. A dead letter keeps it, and so does a dead letter that is
    /// requeued and delivered again.
    pub native_id: Option<Name>,
    /// When the broker took the event, where the broker tells.
    pub time: Option<SystemTime>,
    /// Which delivery to this listener it is, counted from 1; 0 where the broker does not count. Kafka
    /// counts only earlier deliveries to processes that died.
    pub attempt: u32,
}

impl EventMessage {
    /// An event to be sent, with nothing but its names and arguments.
    #[must_use]
    pub fn new(
        id: impl Into<Name>,
        api: impl Into<Name>,
        event: impl Into<Name>,
        version: u32,
        fields: Arguments,
    ) -> Self {
        Self {
            id: id.into(),
            api: api.into(),
            event: event.into(),
            version,
            fields,
            headers: Headers::new(),
            key: None,
            native_id: None,
            time: None,
            attempt: 0,
        }
    }
}
