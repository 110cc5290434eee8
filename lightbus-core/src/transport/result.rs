//! Results: from the worker back to the one caller that waits.

use async_trait::async_trait;

use super::Transport;
use crate::{Name, PendingResult, Result, ResultMessage, ReturnPath};

/// Carries results back to callers.
#[async_trait]
pub trait ResultTransport: Transport {
    /// Registers interest in the result of the call `id`, *before* the call is sent.
    ///
    /// # Delivery
    ///
    /// When it returns, a result sent to the [return path](PendingResult::return_path) will be
    /// seen (case `a_call_gets_its_result`). At most one result arrives for a call: a late one, a
    /// second one, and one that no process knows are counted and dropped (cases
    /// `a_late_result_is_dropped`, `a_result_for_nobody_is_fine`).
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the way back cannot be set up now;
    /// [`Closed`](crate::ErrorKind::Closed) after close. The returned future ends with an error
    /// only if the transport is closed: time limits are the caller's.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future, or the [`PendingResult`] that it gives, ends the registration at once.
    ///
    /// # Implementing
    ///
    /// One connection awaits the results of the whole process; match them by id with
    /// [`PendingResults`](crate::PendingResults).
    async fn expect(&self, id: &Name) -> Result<PendingResult>;

    /// Sends a result to the return path that came with the call.
    ///
    /// # Delivery
    ///
    /// At most once. `Ok` means that the broker has it; that no caller waits any more is no error.
    /// An unread result is dropped after a time that the transport's configuration sets.
    ///
    /// # Errors
    ///
    /// [`Malformed`](crate::ErrorKind::Malformed) if the return path is not one of this transport's;
    /// [`Unavailable`](crate::ErrorKind::Unavailable);
    /// [`TooLarge`](crate::ErrorKind::TooLarge) where the broker limits size.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the result was sent or it was not.
    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()>;
}
