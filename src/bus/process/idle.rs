//! Waiting until the listeners of this process are idle.

use std::time::Duration;

use lightbus_core::{Error, Result, time::deadline_after};
use tokio::time::{sleep, timeout_at};

use crate::bus::shared::Bus;

/// How long waiting may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Work done by other processes of a listener sends no notification here: poll at this interval.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

impl Bus {
    /// Waits until every event for the listeners of this process has been handled and acknowledged, as
    /// the broker counts it. For tests and short programs.
    ///
    /// # Errors
    ///
    /// [`Timeout`](lightbus_core::ErrorKind::Timeout) after 30 s;
    /// [`Unsupported`](lightbus_core::ErrorKind::Unsupported) if a transport cannot report the lag of a
    /// listener.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn wait_until_idle(&self) -> Result<()> {
        let deadline = deadline_after(LIMIT);
        let idle = async {
            loop {
                let handled = self.inner.handled.notified();
                if !self.has_lag().await? {
                    return Ok(());
                }
                tokio::select! {
                    () = handled => {}
                    () = sleep(POLL_INTERVAL) => {}
                }
            }
        };
        timeout_at(deadline, idle)
            .await
            .unwrap_or_else(|_| Err(Error::timeout("listeners still have events to handle", LIMIT)))
            .map_err(|error| error.during("waiting until listeners are idle"))
    }

    async fn has_lag(&self) -> Result<bool> {
        let listeners = self.inner.state().listeners.clone();
        for listener in listeners {
            let spec = listener.spec();
            let lag = listener.transport().lag(&spec.group, &spec.events).await?;
            if lag.waiting + lag.pending > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
