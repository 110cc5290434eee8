//! Setting up what a process needs, while others set up the same.

use std::time::Duration;

use lightbus_core::{Backoff, Result, time::deadline_after};
use tokio::time::{Instant, sleep_until};

/// The backoff before something that could not be set up is retried.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// Connects and works, and retries what fails for a moment only: if several processes declare the same
/// queue at the same time, RabbitMQ may answer some of them with an internal error, which ends their
/// connection. A broker that is unreachable is an error at once.
pub(crate) async fn set_up<C, T, Connecting, Working>(
    deadline: Instant,
    connect: impl Fn() -> Connecting,
    work: impl Fn(C) -> Working,
) -> Result<T>
where
    Connecting: Future<Output = Result<C>>,
    Working: Future<Output = Result<T>>,
{
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    loop {
        let error = match work(connect().await?).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let again = deadline_after(backoff.failed());
        if !error.is_temporary() || again >= deadline {
            return Err(error);
        }
        tracing::debug!(%error, "setting up failed, trying again");
        sleep_until(again).await;
    }
}
