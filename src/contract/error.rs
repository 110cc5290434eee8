//! Errors that an API declares. They arrive typed at the caller.

use std::fmt;

use lightbus_core::{Error, RemoteError};

/// An error that a procedure may return. Derive it for an enum with `#[derive(lightbus::ApiError)]`.
/// `String` and [`Error`] implement it too; they arrive as text.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an error of a procedure",
    label = "does not cross the bus",
    note = "derive it with `#[derive(lightbus::ApiError)]`, or give `lightbus::Result<T>` or `Result<T, String>`"
)]
pub trait ApiError: Sized + Send + 'static {
    /// Converts the error to the form that is sent.
    fn to_remote(&self) -> RemoteError;

    /// Converts a received error back, or returns `None` if it is not one of this type.
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

/// The error of a call of a procedure that declares errors.
#[derive(Clone)]
pub enum CallError<E> {
    /// The procedure returned an error that the API declares.
    Api(E),
    /// Anything else: a timeout, no broker, invalid arguments, an undeclared error.
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
