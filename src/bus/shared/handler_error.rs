//! Errors of handlers.

use std::fmt;

use lightbus_core::Result;

/// Why a handler failed. Any error converts to it with `?`.
pub struct HandlerError(Why);

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
        Self(Why::All(reason.into().into()))
    }

    /// Wraps an error whose type is unknown.
    #[cfg(feature = "tower")]
    pub(crate) fn from_boxed(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self(Why::All(error))
    }

    /// Fails only some events of a batch, given by their index (from 0), each with its reason. The
    /// others are acknowledged.
    ///
    /// With no events, or an index that is out of bounds, the whole batch fails.
    pub fn of_events(failed: impl IntoIterator<Item = (usize, Self)>) -> Self {
        Self(Why::Some(failed.into_iter().collect()))
    }

    /// Returns why the event at `index` of a batch failed, or `None` if it did not.
    pub(crate) fn reason_for(&self, index: usize, events: usize) -> Option<String> {
        match &self.0 {
            Why::Some(failed)
                if !failed.is_empty() && failed.iter().all(|(place, _)| *place < events) =>
            {
                let (_, error) = failed.iter().find(|(place, _)| *place == index)?;
                Some(error.to_string())
            }
            Why::Some(_) | Why::All(_) => Some(self.to_string()),
        }
    }
}

// Not an error itself, so that it can be made from every error.
impl<E: std::error::Error + Send + Sync + 'static> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self(Why::All(Box::new(error)))
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
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
        match &self.0 {
            Why::All(error) => error.fmt(f),
            Why::Some(failed) => failed.fmt(f),
        }
    }
}
