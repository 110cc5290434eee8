//! The one error type of lightbus: what was being done, why it failed, whether trying again is safe.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use crate::message::RemoteError;

/// A result whose error is lightbus' own.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is: the part that a program decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The configuration, or an argument given to lightbus itself, is wrong.
    Config,
    /// The transport lacks what was asked of it; see [`Capabilities`](crate::transport::Capabilities).
    Unsupported,
    /// The broker cannot be reached, or refuses to serve.
    Unavailable,
    /// The time allowed for the operation ran out.
    Timeout,
    /// The bus, the transport or the subscription was closed.
    Closed,
    /// A message is larger, or nested deeper, than a limit allows.
    TooLarge,
    /// Bytes that came from outside are not what they must be.
    Malformed,
    /// A value does not fit the schema of the API.
    Invalid,
    /// The name of an API, a procedure or an event that no process knows.
    Unknown,
    /// The code at the other end ran and failed; see [`Error::remote`].
    Remote,
    /// A state that should not occur: worth a bug report.
    Unexpected,
}

impl ErrorKind {
    /// The kind in lower-case words, as it is shown to people and tools.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
            Self::TooLarge => "too large",
            Self::Malformed => "malformed",
            Self::Invalid => "invalid",
            Self::Unknown => "unknown",
            Self::Remote => "remote",
            Self::Unexpected => "unexpected",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What becomes of trying the failed operation again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Useless: the same will happen.
    #[default]
    Never,
    /// Safe: nothing was done.
    Safe,
    /// Possible, but what failed may have been done nevertheless, and then it is done twice.
    MayDuplicate,
}

/// Why an operation failed.
///
/// `Display` is one line that names the operation, the reason, the context and what to try;
/// the cause is behind [`source`](std::error::Error::source). Cloning is cheap: when one round
/// trip carried the work of many callers, each gets the same error.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    retry: Retry,
    operation: Cow<'static, str>,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    hint: Option<Cow<'static, str>>,
    remote: Option<RemoteError>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this kind, for this reason.
    ///
    /// `Unavailable` starts as [`Retry::Safe`], everything else as [`Retry::Never`].
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let retry = match kind {
            ErrorKind::Unavailable => Retry::Safe,
            _ => Retry::Never,
        };
        Self(Arc::new(Inner {
            kind,
            retry,
            operation: Cow::Borrowed(""),
            message: message.into(),
            context: Vec::new(),
            hint: None,
            remote: None,
            source: None,
        }))
    }

    /// A configuration error at this path, such as `apis.auth.event_transport.redis.batch_size`.
    #[must_use]
    pub fn config(path: impl fmt::Display, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Config, message).with("at", path)
    }

    /// What a transport answers for a method that it does not implement.
    #[must_use]
    pub fn unsupported(transport: &str, what: &'static str) -> Self {
        Self::new(
            ErrorKind::Unsupported,
            format!("the transport `{transport}` does not offer this"),
        )
        .during(what)
    }

    /// What an operation on something closed answers.
    #[must_use]
    pub fn closed(what: &'static str) -> Self {
        Self::new(ErrorKind::Closed, format!("{what} is closed"))
    }

    /// What an operation answers that did not end within `limit`.
    #[must_use]
    pub fn timeout(message: impl Into<Cow<'static, str>>, limit: Duration) -> Self {
        Self::new(ErrorKind::Timeout, message).with("limit", format!("{limit:?}"))
    }

    /// What a transport answers for a call that was not sent before its deadline.
    #[must_use]
    pub fn too_late() -> Self {
        Self::new(ErrorKind::Timeout, "the deadline of the call passed before it was sent")
            .retry(Retry::Safe)
    }

    /// What a transport answers for a call whose deadline passed while it was sent: it may run.
    #[must_use]
    pub fn unconfirmed() -> Self {
        Self::new(ErrorKind::Timeout, "the broker did not confirm the call before its deadline")
            .retry(Retry::MayDuplicate)
    }

    /// A failure that the code at the other end reported.
    #[must_use]
    pub fn from_remote(remote: RemoteError) -> Self {
        let mut error = Self::new(ErrorKind::Remote, remote.message.clone());
        Arc::make_mut(&mut error.0).remote = Some(remote);
        error
    }

    /// Names the operation that failed, such as "calling auth.check_password", in place of any
    /// name before.
    ///
    /// Whoever offers an operation to a user names it: the bus names what its methods do, in the
    /// user's terms. A transport's method leaves that to the bus and adds facts with
    /// [`with`](Self::with). It names only what it does on its own account, in a task of its own
    /// or before any operation, such as "connecting to Redis".
    #[must_use]
    pub fn during(mut self, operation: impl Into<Cow<'static, str>>) -> Self {
        Arc::make_mut(&mut self.0).operation = operation.into();
        self
    }

    /// Adds a fact, such as the broker or the listener concerned.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl fmt::Display) -> Self {
        Arc::make_mut(&mut self.0).context.push((key, value.to_string()));
        self
    }

    /// Says what the reader can do about it, as a sentence without full stop.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        Arc::make_mut(&mut self.0).hint = Some(hint.into());
        self
    }

    /// Suggests the known name that a misspelt one most likely means, in place of any hint before.
    /// Without one that is near, the hint stays as it is.
    #[must_use]
    pub fn did_you_mean<'a>(self, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(name, known) {
            Some(nearest) => self.hint(format!("Did you mean `{nearest}`?")),
            None => self,
        }
    }

    /// Says whether trying again is useful and safe.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        Arc::make_mut(&mut self.0).retry = retry;
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn because(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>,
    ) -> Self {
        Arc::make_mut(&mut self.0).source = Some(Arc::from(source.into()));
        self
    }

    /// The kind of failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether trying again is useful and safe.
    #[must_use]
    pub fn retryable(&self) -> Retry {
        self.0.retry
    }

    /// Whether the failure may pass by itself.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.0.retry != Retry::Never
    }

    /// What was being done, or an empty text.
    #[must_use]
    pub fn operation(&self) -> &str {
        &self.0.operation
    }

    /// The reason alone, without operation and context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to try, where the error knows.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The facts added to the error, in order.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// What the code at the other end reported, if this is [`ErrorKind::Remote`].
    #[must_use]
    pub fn remote(&self) -> Option<&RemoteError> {
        self.0.remote.as_ref()
    }
}

/// Returns the known name that a misspelt one most likely means: one of which at most a third
/// differs.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|(distance, known)| *distance <= known.len().max(name.len()).div_ceil(3))
        .min()
        .map(|(_, known)| known)
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        if !inner.operation.is_empty() {
            write!(f, "{}: ", inner.operation)?;
        }
        f.write_str(&inner.message)?;
        for (index, (key, value)) in inner.context.iter().enumerate() {
            f.write_str(if index == 0 { " (" } else { ", " })?;
            write!(f, "{key} {value}")?;
        }
        if !inner.context.is_empty() {
            f.write_str(")")?;
        }
        if let Some(hint) = &inner.hint {
            write!(f, ". {hint}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind)?;
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            write!(f, "\n  because: {error}")?;
            cause = error.source();
        }
        if let Some(trace) = self.remote().and_then(|remote| remote.trace.as_deref()) {
            write!(f, "\nremote trace:\n{trace}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_says_what_why_where_and_what_to_try() {
        let error = Error::new(ErrorKind::Unavailable, "connection refused")
            .during("calling auth.check_password")
            .with("broker", "redis 127.0.0.1:6379")
            .hint("Is Redis running?");
        assert_eq!(
            error.to_string(),
            "calling auth.check_password: connection refused (broker redis 127.0.0.1:6379). Is Redis running?"
        );
        assert_eq!(error.retryable(), Retry::Safe);
    }

    #[test]
    fn a_misspelt_name_is_recognised_and_nonsense_is_not() {
        let error = || Error::new(ErrorKind::Config, "no such key").hint("Look it up");
        let known = ["rpc_timeout", "validate"];
        let near = error().did_you_mean("rpc_timout", known);
        assert_eq!(near.advice(), Some("Did you mean `rpc_timeout`?"));
        assert_eq!(error().did_you_mean("zzzz", known).advice(), Some("Look it up"));
    }

    #[test]
    fn debug_shows_the_chain_and_the_remote_trace() {
        let error = Error::from_remote(RemoteError {
            message: "ValueError('no')".into(),
            trace: Some("line 1".into()),
            ..RemoteError::default()
        })
        .because(std::io::Error::other("pipe"));
        let text = format!("{error:?}");
        assert!(text.contains("because: pipe") && text.contains("line 1"), "{text}");
    }
}
