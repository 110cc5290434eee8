//! Running until a signal arrives, draining, closing.

use std::time::Instant;

use lightbus_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::signals::Signals;
use crate::bus::shared::{Bus, GRACE, Phase};

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
            eprintln!("{}\nready in {} ms", self.summary(), began.elapsed().as_millis());
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
                eprintln!("second signal: exiting at once");
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

    /// Drains and closes the bus. Stops taking messages, waits for handlers to finish (at most
    /// [`drain_timeout`](crate::BusBuilder::drain_timeout), 15 s by default), acknowledges events and
    /// sends results, returns what was not started, runs the [`on_stop`](Self::on_stop) hooks, and closes
    /// the transports. Handlers and hooks may call and fire until then; later operations fail with
    /// [`Closed`](ErrorKind::Closed). Closing twice is fine.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) if a handler did not finish in time and was dropped; its event is
    /// redelivered. Otherwise the first error of a hook, or of closing a transport.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the bus takes no more messages; close it again to finish.
    pub async fn close(&self) -> Result<()> {
        let limit = self.inner.drain_timeout;
        let late = |what: &'static str| {
            Err(Error::new(ErrorKind::Timeout, what)
                .during("closing the bus")
                .with("limit", format!("{limit:?}"))
                .hint("Give it longer with `Bus::builder().drain_timeout(…)`"))
        };
        self.inner.advance(Phase::Draining);
        let mut consumers = std::mem::take(&mut self.inner.state().consumers);
        let mut ended = async || while consumers.join_next().await.is_some() {};
        let drained = timeout(limit, ended()).await;
        if drained.is_err() {
            self.inner.advance(Phase::CutOff);
            let _ = timeout(GRACE, ended()).await;
        }
        consumers.shutdown().await;
        let drained =
            drained.or_else(|_| late("a handler or a task was still running and was cut off"));
        let stop = async {
            let hooks = self.run_stop_hooks().await;
            if *self.inner.watch().borrow() < Phase::Closed {
                self.inner.plugins.after_stop().await;
            }
            hooks
        };
        let hooks = timeout(limit, stop).await;
        let hooks =
            hooks.unwrap_or_else(|_| late("an on_stop hook was still running and was cut off"));
        self.inner.advance(Phase::Closed);
        let closed = self.inner.apis.close().await.and(self.inner.schema.transport().close().await);
        self.inner.calls.close();
        drained.and(hooks).and(closed)
    }
}
