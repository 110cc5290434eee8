//! Signals that shut a process down.
//!
//! While a bus runs, a signal asks it to drain. tokio keeps its signal handlers for the life of the
//! process, so signals that arrive when no bus runs any more would have no effect. Their default action
//! is emulated then, which ends the process. This is decided within the signal handler and needs no
//! runtime.

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

/// Receives every signal from its creation on, even while nothing awaits [`next`](Self::next). When the
/// last one in the process is dropped, signals have their default action again.
pub(super) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(windows)]
    interrupt: tokio::signal::windows::CtrlC,
    #[cfg(unix)]
    _taken: default_effect::Taken,
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
        // First: handlers run in this order. Otherwise a bus that stops at once, while the signal is
        // still being handled, would have it end the process, too.
        let taken = default_effect::Taken::new()?;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            _taken: taken,
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

/// What signals do while no bus runs.
#[cfg(unix)]
mod default_effect {
    use std::{
        io,
        sync::{
            Arc, Mutex, PoisonError,
            atomic::{AtomicBool, Ordering},
        },
    };

    use signal_hook::{
        consts::{SIGINT, SIGTERM},
        flag::register_conditional_default,
    };

    /// How many buses run in this process, and whether signals have their default effect.
    static RUNS: Mutex<Runs> = Mutex::new(Runs { count: 0, default: None });

    struct Runs {
        count: usize,
        /// Made, and registered for both signals, by the first run.
        default: Option<Arc<AtomicBool>>,
    }

    /// While it lives, signals do not have their default effect.
    pub(super) struct Taken(());

    impl Taken {
        pub(super) fn new() -> io::Result<Self> {
            let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(default) = &runs.default {
                default.store(false, Ordering::SeqCst);
            } else {
                let default = Arc::new(AtomicBool::new(false));
                for signal in [SIGINT, SIGTERM] {
                    register_conditional_default(signal, Arc::clone(&default))?;
                }
                runs.default = Some(default);
            }
            runs.count = runs.count.saturating_add(1);
            Ok(Self(()))
        }
    }

    impl Drop for Taken {
        fn drop(&mut self) {
            let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
            runs.count = runs.count.saturating_sub(1);
            if let (0, Some(default)) = (runs.count, &runs.default) {
                default.store(true, Ordering::SeqCst);
            }
        }
    }
}
