//! Waiting for the end of all work in flight.

use std::time::Duration;

use lightbus_core::{Error, Result};
use tokio::time::{Instant, sleep, timeout_at};

use super::{TestBus, clock};

/// How long settling may take, of the bus' time.
const LIMIT: Duration = Duration::from_secs(60);
/// What rings no bell in this process: look again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl TestBus {
    /// Waits until nothing is in flight any more in all processes of the test: every event that was
    /// fired is settled by every listener that wants it (handled, or set aside after its last try),
    /// every call is answered or given up, every procedure has ended, and so has what they have fired
    /// and called in turn. Work is counted, nothing is slept for.
    ///
    /// A task of your own that neither calls nor fires yet is not seen: with time paused settling waits
    /// until it waits for something, otherwise join it first. From within a handler settling never ends.
    ///
    /// # Errors
    ///
    /// [`Timeout`](lightbus_core::ErrorKind::Timeout) after 60 s of the bus' time, which pass at once
    /// where time is paused. It says what is still in flight.
    ///
    /// # Cancel safety
    ///
    /// May be dropped.
    pub async fn wait_until_idle(&self) -> Result<()> {
        self.wait_until_idle_within(LIMIT).await
    }

    /// The same with another limit.
    ///
    /// # Errors
    ///
    /// As [`wait_until_idle`](Self::wait_until_idle).
    pub async fn wait_until_idle_within(&self, limit: Duration) -> Result<()> {
        let settled = timeout_at(Instant::now() + limit, self.settled()).await;
        let Err(_) = settled else { return settled.unwrap_or(Ok(())) };
        let in_flight = self.state.in_flight.describe();
        let behind = self.state.lagging().await.ok().flatten().unwrap_or_default();
        Err(Error::timeout("there is still work in flight", limit)
            .during("settling")
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
            // Whoever is about to begin something begins it now.
            clock::quiet().await;
            if !in_flight.is_idle() || in_flight.begun() != begun {
                continue;
            }
            let behind = self.state.lagging().await.map_err(|error| error.during("settling"))?;
            if behind.is_none() && in_flight.is_idle() && in_flight.begun() == begun {
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}
