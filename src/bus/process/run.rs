//! Running until a signal, draining, closing.

use std::time::Instant;

use lightbus_core::{Error, ErrorKind, Result};
use tokio::time::timeout;

use super::signals::Signals;
use crate::bus::shared::{Bus, GRACE, Phase};

impl Bus {
    /// Runs the process: the [`on_start`](Self::on_start) hooks, then
    /// [scheduled](Self::every) and [background](Self::background) tasks; shows on standard error what
    /// the process does; works until SIGINT, SIGTERM or [`shut_down`](Self::shut_down); then drains,
    /// runs the [`on_stop`](Self::on_stop) hooks and closes, as [`close`](Self::close) says.
    ///
    /// Signals count from when this begins, also while hooks run. A second one ends the process at
    /// once, without draining: with code 130 after SIGINT, 143 after SIGTERM. A `main` that returns
    /// this result gives 0 after a signal and 1 after an error.
    ///
    /// # Errors
    ///
    /// What made a hook, a background task, or a listener with
    /// [`OnError::Shutdown`](crate::OnError::Shutdown) end the process; what went wrong in closing.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the bus goes on.
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
                tracing::info!(signal = signal.name(), "stopping: what runs may finish");
            }
            ended = work => if let Err(error) = ended {
                self.inner.fail(error);
            }
        }
        let closed = tokio::select! {
            closed = self.close() => closed,
            second = signals.next() => {
                eprintln!("a second signal: ended at once");
                std::process::exit(second.exit_code());
            }
        };
        match self.inner.state().failure.take() {
            Some(failure) => Err(failure),
            None => closed,
        }
    }

    /// What is done once, and what is begun with it.
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

    /// Asks [`run`](Self::run) to end as after a signal.
    pub fn shut_down(&self) {
        self.inner.advance(Phase::Stopping);
    }

    /// Drains and closes: takes nothing more, lets what runs finish (at most
    /// [`drain_timeout`](crate::BusBuilder::drain_timeout), 15 s), acknowledges, sends results, gives
    /// back what was not begun, runs the [`on_stop`](Self::on_stop) hooks, and closes the transports.
    /// What runs may call and fire until then; later operations answer [`Closed`](ErrorKind::Closed).
    /// Closing twice is fine.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) if something did not finish in time: it was cut off, and its
    /// events come again; the first failure of a hook; what a transport said to closing.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the bus takes nothing more; close it again to wait.
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
        let drained = drained.or_else(|_| late("something was still running and was cut off"));
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
