//! How a handler says that it failed.

use std::fmt;

use lightbus_core::Result;

/// Why a handler failed: any error, by `?`.
pub struct HandlerError(Why);

enum Why {
    All(Box<dyn std::error::Error + Send + Sync>),
    /// Of a batch only these, by their place in it.
    Some(Vec<(usize, HandlerError)>),
}

/// What a handler gives: `Ok(())` acknowledges the event.
pub type HandlerResult = Result<(), HandlerError>;

impl HandlerError {
    /// A failure with this reason.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(Why::All(reason.into().into()))
    }

    /// A failure that is an error already, of a type that nobody knows.
    #[cfg(feature = "tower")]
    pub(crate) fn from_boxed(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self(Why::All(error))
    }

    /// Of a batch only these events failed, each by its place in the batch, counted from 0, and
    /// with its reason. The others are handled and never come again.
    ///
    /// Without any, or with a place that the batch does not have, the whole batch has failed.
    pub fn of_events(failed: impl IntoIterator<Item = (usize, Self)>) -> Self {
        Self(Why::Some(failed.into_iter().collect()))
    }

    /// Why this event of a batch failed; `None` if it did not.
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
                // A batch of one.
                Some((0, error)) if failed.len() == 1 => error.fmt(f),
                Some((place, error)) => {
                    write!(f, "{} events of a batch failed, first {place}: {error}", failed.len())
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
