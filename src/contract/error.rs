//! Errors that are part of an API: they cross the bus and come out typed.

use std::fmt;

use lightbus_core::{Error, RemoteError};

/// An error that a procedure may return. Derive it for an enum of your own with
/// `#[derive(lightbus::ApiError)]`; texts and lightbus' own error are errors too, that arrive as
/// text.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an error of a procedure",
    label = "does not cross the bus",
    note = "derive it with `#[derive(lightbus::ApiError)]`, or give `lightbus::Result<T>` or `Result<T, String>`"
)]
pub trait ApiError: Sized + Send + 'static {
    /// What goes over the bus.
    fn to_remote(&self) -> RemoteError;

    /// The error again, if what came over the bus is one of this type.
    fn from_remote(remote: &RemoteError) -> Option<Self>;
}

impl ApiError for Error {
    fn to_remote(&self) -> RemoteError {
        self.remote().cloned().unwrap_or_else(|| RemoteError {
            message: self.to_string(),
            trace: std::error::Error::source(self).map(|_| format!("{self:?}")),
            ..RemoteError::default()
        })
    }

    fn from_remote(_: &RemoteError) -> Option<Self> {
        None
    }
}

impl ApiError for String {
    fn to_remote(&self) -> RemoteError {
        RemoteError { message: self.clone(), ..RemoteError::default() }
    }

    fn from_remote(remote: &RemoteError) -> Option<Self> {
        Some(remote.message.clone())
    }
}

/// Why a call of a procedure with errors of its own failed.
#[derive(Clone)]
pub enum CallError<E> {
    /// The procedure returned an error that the API declares.
    Api(E),
    /// Everything else: no answer in time, no broker, invalid arguments, an error not declared.
    Bus(Error),
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(error) => error.fmt(f),
            Self::Bus(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api(error) => f.debug_tuple("Api").field(error).finish(),
            Self::Bus(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Display + fmt::Debug> std::error::Error for CallError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Api(_) => None,
            Self::Bus(error) => error.source(),
        }
    }
}

impl<E: ApiError> From<CallError<E>> for Error {
    fn from(error: CallError<E>) -> Self {
        match error {
            CallError::Api(error) => Error::from_remote(error.to_remote()),
            CallError::Bus(error) => error,
        }
    }
}

impl<E> From<Error> for CallError<E> {
    fn from(error: Error) -> Self {
        Self::Bus(error)
    }
}
