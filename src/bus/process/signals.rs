//! Signals that shut a process down.

use lightbus_core::{Error, ErrorKind, Result};

/// A signal that asks the process to shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Ctrl-C.
    Interrupt,
    /// Sent by service managers and container runtimes.
    #[cfg(unix)]
    Terminate,
}

impl Ending {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            #[cfg(unix)]
            Self::Terminate => "SIGTERM",
        }
    }

    /// Returns the exit code of a process ended by the signal: 128 plus its number, as in shells.
    pub(super) fn exit_code(self) -> i32 {
        match self {
            Self::Interrupt => 130,
            #[cfg(unix)]
            Self::Terminate => 143,
        }
    }
}

/// Receives every signal from its creation on, even while nothing awaits [`next`](Self::next).
pub(super) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
}

impl Signals {
    pub(super) fn listen() -> Result<Self> {
        Self::new().map_err(|error| {
            Error::new(ErrorKind::Unexpected, "signals cannot be received").because(error)
        })
    }

    #[cfg(unix)]
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    #[cfg(windows)]
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: tokio::signal::windows::ctrl_c()? })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Ending {
        #[cfg(unix)]
        tokio::select! {
            Some(()) = self.interrupt.recv() => Ending::Interrupt,
            Some(()) = self.terminate.recv() => Ending::Terminate,
            else => std::future::pending().await,
        }
        #[cfg(windows)]
        match self.interrupt.recv().await {
            Some(()) => Ending::Interrupt,
            None => std::future::pending().await,
        }
    }
}
