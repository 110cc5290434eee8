//! Waiting until the listeners of this process have nothing left to do.

use std::time::Duration;

use lightbus_core::{Error, Name, Result, transport::LagSpec};
use tokio::time::{Instant, sleep, timeout_at};

use crate::bus::shared::Bus;

/// How long settling may take.
const LIMIT: Duration = Duration::from_secs(30);
/// What other processes of a listener do rings no bell here: look again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Bus {
    /// Waits until every event that the listeners of this process are to get has been handled and
    /// acknowledged. It counts what the broker still holds for them, and waits for no fixed time:
    /// made for tests and short programs.
    ///
    /// # Errors
    ///
    /// [`Timeout`](lightbus_core::ErrorKind::Timeout) after 30 s;
    /// [`Unsupported`](lightbus_core::ErrorKind::Unsupported) if a transport cannot tell the lag of a
    /// listener.
    pub async fn wait_until_idle(&self) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let settled = async {
            loop {
                let handled = self.inner.handled.notified();
                if !self.has_lag().await? {
                    return Ok(());
                }
                tokio::select! {
                    () = handled => {}
                    () = sleep(LOOK_AGAIN) => {}
                }
            }
        };
        timeout_at(deadline, settled)
            .await
            .unwrap_or_else(|_| Err(Error::timeout("listeners still have events to handle", LIMIT)))
            .map_err(|error| error.during("settling"))
    }

    async fn has_lag(&self) -> Result<bool> {
        let listeners = self.inner.state().listeners.clone();
        for listener in listeners {
            let spec = LagSpec {
                service: Name::clone(&listener.spec().service),
                listener: Name::clone(&listener.spec().listener),
                events: listener.spec().events.clone(),
            };
            let lag = listener.transport().lag(spec).await?;
            if lag.waiting + lag.pending > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
