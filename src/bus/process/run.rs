//! Running until a signal arrives.

use std::{
    fmt,
    io::{self, Write},
    time::Instant,
};

use lightbus_core::Result;

use super::signals::Signals;
use crate::bus::shared::{Bus, Phase};

impl Bus {
    /// Runs the process. Runs the [`on_start`](Self::on_start) hooks, starts
    /// [scheduled](Self::every) and [background](Self::background) tasks, prints a
    /// [summary](Self::summary) to standard error, and waits for SIGINT, SIGTERM or
    /// [`shut_down`](Self::shut_down). Then drains, runs the [`on_stop`](Self::on_stop) hooks and closes,
    /// as [`close`](Self::close) does.
    ///
    /// Signals are handled from the start, also while hooks run. A second signal exits the process at
    /// once, without draining, with code 130 for SIGINT and 143 for SIGTERM. A `main` that returns this
    /// result exits with 0 after a signal and 1 after an error.
    ///
    /// Once this has returned, and no other bus of the program runs, SIGINT and SIGTERM have their default
    /// effect on Unix: they end the process, also if the program listens to them itself.
    ///
    /// # Errors
    ///
    /// The error of a hook, a background task, or a listener with
    /// [`OnError::Shutdown`](crate::OnError::Shutdown) that ended the process; otherwise that of
    /// [`close`](Self::close).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the bus keeps working; [`close`](Self::close) ends it.
    pub async fn run(self) -> Result<()> {
        let began = Instant::now();
        let mut signals = Signals::listen()?;
        let mut stopping = self.inner.watch();
        let work = async {
            self.start().await?;
            show(format_args!("{}\nready in {} ms", self.summary(), began.elapsed().as_millis()));
            let _ = stopping.wait_for(|phase| *phase >= Phase::Stopping).await;
            Ok(())
        };
        tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal = signal.name(), "shutting down; handlers may finish");
            }
            ended = work => if let Err(error) = ended {
                self.inner.fail(error);
            }
        }
        let closed = tokio::select! {
            closed = self.close() => closed,
            second = signals.next() => {
                show(format_args!("second signal: exiting at once"));
                std::process::exit(second.exit_code());
            }
        };
        match self.inner.state().failure.take() {
            Some(failure) => Err(failure),
            None => closed,
        }
    }

    /// Runs the start hooks and starts the tasks.
    async fn start(&self) -> Result<()> {
        self.inner.plugins.before_start().await?;
        self.run_start_hooks().await?;
        self.start_tasks();
        self.inner.plugins.after_start().await
    }

    fn start_tasks(&self) {
        let mut state = self.inner.state();
        state.runs = true;
        for task in std::mem::take(&mut state.waiting) {
            state.consumers.spawn(task);
        }
    }

    /// Asks [`run`](Self::run) to shut down, as a signal does. Returns at once.
    pub fn shut_down(&self) {
        self.inner.advance(Phase::Stopping);
    }
}

/// Writes a line to standard error, which may be closed.
fn show(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
