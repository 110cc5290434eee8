//! An API with an implementation.

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{Arguments, RemoteError};

use super::Contract;

/// An implementation of an API, as the bus sees it. `#[api]` writes it: `AuthApi(my_auth)` is the
/// service of whatever implements `Auth`.
pub trait Service: Send + Sync + 'static {
    /// What it implements.
    fn contract(&self) -> &'static Contract;

    /// Runs a procedure: decodes the arguments, calls the implementation, encodes what it gives.
    ///
    /// Arguments that are missing, too many or of another type, and names of procedures that do
    /// not exist, are errors like those of the implementation: they travel back to the caller.
    fn call<'a>(
        &'a self,
        procedure: &'a str,
        arguments: &'a Arguments,
    ) -> BoxFuture<'a, Result<Bytes, RemoteError>>;
}
