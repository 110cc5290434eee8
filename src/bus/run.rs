//! Running until a signal, draining, closing.

use std::time::Duration;

use lightbus_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::{Bus, Phase};

/// How long what runs may take to finish once the bus drains.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(15);

impl Bus {
    /// Shows what the process does, and works until SIGINT, SIGTERM or
    /// [`shut_down`](Self::shut_down); then drains and closes. A second signal ends the process at once,
    /// with code 130.
    ///
    /// # Errors
    ///
    /// What made a listener with [`OnError::Shutdown`](super::OnError::Shutdown) end the process; what
    /// went wrong in closing.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the bus goes on.
    pub async fn run(self) -> Result<()> {
        eprintln!("{}", self.summary());
        let mut stopping = self.inner.watch();
        tokio::select! {
            signal = signal() => {
                tracing::info!(signal = signal?, "stopping: what runs may finish");
            }
            _ = stopping.wait_for(|phase| *phase >= Phase::Stopping) => {}
        }
        let second = tokio::spawn(async {
            if signal().await.is_ok() {
                eprintln!("a second signal: ended at once");
                std::process::exit(130);
            }
        });
        let closed = self.close().await;
        second.abort();
        match self.inner.state().failure.take() {
            Some(failure) => Err(failure),
            None => closed,
        }
    }

    /// Asks [`run`](Self::run) to end as after a signal.
    pub fn shut_down(&self) {
        self.inner.advance(Phase::Stopping);
    }

    /// Drains and closes: takes nothing more, lets what runs finish (at most 15 s), acknowledges,
    /// sends results, gives back what was not begun, and closes the transports. Later operations
    /// answer [`Closed`](ErrorKind::Closed). Closing twice is fine.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) if something did not finish in time: it was cut off, and its
    /// events come again; what a transport said to closing.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the bus takes nothing more; close it again to wait.
    pub async fn close(&self) -> Result<()> {
        self.inner.advance(Phase::Draining);
        let mut consumers = std::mem::take(&mut self.inner.state().consumers);
        let drained =
            timeout(DRAIN_TIMEOUT, async { while consumers.join_next().await.is_some() {} }).await;
        consumers.shutdown().await;
        let closed = self.inner.apis.close().await.and(self.inner.schema.transport().close().await);
        self.inner.calls.close();
        self.inner.advance(Phase::Closed);
        match drained {
            Ok(()) => closed,
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, "something was still running and was cut off")
                    .during("closing the bus")
                    .with("limit", format!("{DRAIN_TIMEOUT:?}")))
            }
        }
    }
}

/// Waits for SIGINT or SIGTERM, and gives its name.
async fn signal() -> Result<&'static str> {
    let unusable = |error: std::io::Error| {
        Error::new(ErrorKind::Unexpected, "signals cannot be received").because(error)
    };
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).map_err(unusable)?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| "SIGINT").map_err(unusable),
            _ = terminate.recv() => Ok("SIGTERM"),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.map(|()| "Ctrl-C").map_err(unusable)
}
