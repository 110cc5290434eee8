//! Waiting until nothing is in flight.

use std::time::Duration;

use lightbus_core::{Error, Result};
use tokio::time::{sleep, timeout};

use super::{TestBus, clock};

/// The default time limit, by tokio's clock.
const LIMIT: Duration = Duration::from_secs(60);
/// Work outside of this process sends no notification: poll at this interval.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

impl TestBus {
    /// Waits until nothing is in flight in any process of the test: every fired event has been handled
    /// or dead-lettered by every listener that wants it, every call has been answered or abandoned, every
    /// procedure has returned, and so on for what they have fired and called. Work in flight is counted;
    /// nothing relies on sleeping.
    ///
    /// Tasks of the code under test are not known until they call or fire. With time paused, this method
    /// lets them run until they wait; otherwise join them first. Called from within a handler, it never
    /// returns in time.
    ///
    /// # Errors
    ///
    /// [`Timeout`](lightbus_core::ErrorKind::Timeout), with what is still in flight, after 60 s by
    /// tokio's clock, which pass at once where time is paused.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_until_idle(&self) -> Result<()> {
        self.wait_until_idle_within(LIMIT).await
    }

    /// Like [`wait_until_idle`](Self::wait_until_idle), with another time limit.
    ///
    /// # Errors
    ///
    /// See [`wait_until_idle`](Self::wait_until_idle).
    pub async fn wait_until_idle_within(&self, limit: Duration) -> Result<()> {
        let settled = timeout(limit, self.settled()).await;
        let Err(_) = settled else { return settled.unwrap_or(Ok(())) };
        let in_flight = self.state.in_flight.describe();
        let behind = self.state.lagging().await.ok().flatten().unwrap_or_default();
        Err(Error::timeout("there is still work in flight", limit)
            .during("waiting until the test is idle")
            .hint(format!("In flight:{in_flight}{behind}{}", self.seed())))
    }

    async fn settled(&self) -> Result<()> {
        let in_flight = &self.state.in_flight;
        loop {
            let begun = in_flight.begun();
            let mut changed = std::pin::pin!(in_flight.changed());
            changed.as_mut().enable();
            if !in_flight.is_idle() {
                changed.await;
                continue;
            }
            // Tasks that are about to call or fire do it now.
            clock::quiet().await;
            if !in_flight.is_idle() || in_flight.begun() != begun {
                continue;
            }
            let behind = self
                .state
                .lagging()
                .await
                .map_err(|error| error.during("waiting until the test is idle"))?;
            if behind.is_none() && in_flight.is_idle() && in_flight.begun() == begun {
                return Ok(());
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}
