//! Errors of handlers.

use std::fmt;

use lightbus_core::Result;

/// Why a handler failed. Made by `?` from whatever becomes a boxed error: every
/// [`Error`](std::error::Error), `anyhow::Error`, `eyre::Report`, `Box<dyn Error + Send + Sync>`, `&str`
/// and `String`.
///
/// ```
/// use lightbus::HandlerError;
///
/// fn parse(text: &str) -> Result<u32, HandlerError> {
///     if text.is_empty() {
///         return Err("there is nothing to parse".into());
///     }
///     // It will never be a number: retrying is useless.
///     text.parse().map_err(|error| HandlerError::permanent(error))
/// }
/// assert!(parse("seven").unwrap_err().is_permanent());
/// ```
pub struct HandlerError {
    why: Why,
    permanent: bool,
}

enum Why {
    All(Box<dyn std::error::Error + Send + Sync>),
    /// Only these events of a batch, by index.
    Some(Vec<(usize, HandlerError)>),
}

/// What a handler returns. `Ok(())` acknowledges the event.
pub type HandlerResult = Result<(), HandlerError>;

impl HandlerError {
    /// Creates an error from a text.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { why: Why::All(reason.into().into()), permanent: false }
    }

    /// A failure that retrying cannot mend: the event is dead-lettered at once. In a task, and where
    /// failures are acknowledged or end the process, it is a failure as any other.
    pub fn permanent(error: impl Into<Self>) -> Self {
        Self { permanent: true, ..error.into() }
    }

    /// Whether retrying is useless.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }

    /// The failure as text, also where its own code panics.
    pub(crate) fn reason(&self) -> String {
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.to_string()));
        told.unwrap_or_else(|_| "the error could not be shown: its own code panicked".to_owned())
    }

    /// Fails only some events of a batch, given by their index (from 0), each with its reason. The
    /// others are acknowledged.
    ///
    /// With no events, or an index that is out of bounds, the whole batch fails.
    pub fn of_events(failed: impl IntoIterator<Item = (usize, Self)>) -> Self {
        Self { why: Why::Some(failed.into_iter().collect()), permanent: false }
    }

    /// Returns why the event at `index` of a batch failed, or `None` if it did not.
    pub(crate) fn reason_for(&self, index: usize, events: usize) -> Option<String> {
        match &self.why {
            Why::Some(failed)
                if !failed.is_empty() && failed.iter().all(|(place, _)| *place < events) =>
            {
                let (_, error) = failed.iter().find(|(place, _)| *place == index)?;
                Some(error.reason())
            }
            Why::Some(_) | Why::All(_) => Some(self.reason()),
        }
    }
}

// Not an error itself, so that it can be made from every error.
impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self { why: Why::All(error.into()), permanent: false }
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::All(error) => error.fmt(f),
            Why::Some(failed) => match failed.first() {
                // The only event of a batch of one.
                Some((0, error)) if failed.len() == 1 => error.fmt(f),
                Some((place, error)) => {
                    write!(
                        f,
                        "{} events of a batch failed, the first at {place}: {error}",
                        failed.len()
                    )
                }
                None => f.write_str("the handler did not say which events failed"),
            },
        }
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::All(error) => error.fmt(f),
            Why::Some(failed) => failed.fmt(f),
        }
    }
}
