//! Implementations of an API.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{Arguments, RemoteError};

use super::Contract;

/// An implementation of an API, as the bus sees it. `#[api]` generates it: `AuthApi(my_auth)` is the
/// service for a type that implements `Auth`.
pub trait Service: Send + Sync + 'static {
    /// Returns the contract of the API.
    fn contract(&self) -> &'static Contract;

    /// Runs a procedure: decodes the arguments, calls the implementation, encodes the result.
    ///
    /// Missing or unexpected arguments, arguments of another type, and unknown procedures are errors
    /// that are sent to the caller, as those of the implementation are.
    fn call<'a>(
        &'a self,
        procedure: &'a str,
        arguments: &'a Arguments,
    ) -> BoxFuture<'a, Result<Bytes, RemoteError>>;
}
