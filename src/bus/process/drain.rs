//! Draining and closing.
//!
//! One task drains: the first [`Bus::close`] spawns it, and all callers only wait for its result. A caller
//! that stops waiting cuts nothing off. Several that close at once, such as a program and [`Bus::run`]
//! after a signal, wait for one drain and get the same result.

use std::time::Duration;

use lightbus_core::{Error, ErrorKind, Result};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::bus::shared::{Bus, GRACE, Phase, catch_panic};

/// How long all transports together may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

impl Bus {
    /// Drains and closes the bus. Stops taking messages, waits for handlers to finish (at most
    /// [`drain_timeout`](crate::BusBuilder::drain_timeout), 15 s by default), acknowledges events and
    /// sends results, returns what was not started, runs the [`on_stop`](Self::on_stop) hooks, and closes
    /// the transports. Handlers and hooks may call and fire until then; later operations fail with
    /// [`Closed`](ErrorKind::Closed).
    ///
    /// Handlers that have not finished in time are dropped, and consumers have two more seconds to return
    /// their events; a handler that blocks its thread is left behind. Hooks have the drain timeout once
    /// more, and transports ten seconds to close.
    ///
    /// Closing twice is fine: all callers wait for the same drain and get its result.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) if a handler did not finish in time and was dropped; its event is
    /// redelivered. Otherwise the first error of a hook, or of closing a transport.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, draining continues in the background; close again to wait for it.
    pub async fn close(&self) -> Result<()> {
        let mut closing = self.begin_closing();
        let end = closing.wait_for(Option::is_some).await;
        end.ok().and_then(|end| end.clone()).unwrap_or_else(|| {
            let error =
                Error::new(ErrorKind::Unexpected, "the runtime ended before the bus was closed");
            Err(error.during("closing the bus"))
        })
    }

    /// Starts the drain, unless it has been started.
    fn begin_closing(&self) -> watch::Receiver<Option<Result<()>>> {
        let mut state = self.inner.state();
        if let Some(closing) = &state.closing {
            return closing.clone();
        }
        let (done, closing) = watch::channel(None);
        state.closing = Some(closing.clone());
        drop(state);
        let bus = self.clone();
        tokio::spawn(async move {
            let end = catch_panic(bus.drain()).await.unwrap_or_else(|panic| {
                tracing::error!(panic, "closing the bus panicked");
                bus.inner.advance(Phase::Closed);
                let what = format!("it panicked: {panic}");
                Err(Error::new(ErrorKind::Unexpected, what).during("closing the bus"))
            });
            done.send_replace(Some(end));
        });
        closing
    }

    async fn drain(&self) -> Result<()> {
        let inner = &self.inner;
        let limit = inner.drain_timeout;
        inner.advance(Phase::Draining);
        let mut consumers = std::mem::take(&mut inner.state().consumers);
        let drained = match timeout(limit, self.ended(&mut consumers)).await {
            Ok(()) => Ok(()),
            Err(_) => {
                let running = self.still_running();
                inner.advance(Phase::CutOff);
                let _ = timeout(GRACE, self.ended(&mut consumers)).await;
                let error = late("a handler or a task was still running and was cut off", limit);
                Err(error.with("running", running))
            }
        };
        // Not awaited: a task that blocks its thread cannot be aborted.
        consumers.abort_all();
        consumers.detach_all();
        let stop = async {
            let hooks = self.run_stop_hooks().await;
            inner.plugins.after_stop().await;
            hooks
        };
        let hooks = timeout(limit, stop).await.unwrap_or_else(|_| {
            Err(late("an on_stop hook was still running and was cut off", limit))
        });
        inner.advance(Phase::Closed);
        inner.calls.close();
        let transports =
            async { inner.apis.close().await.and(inner.schema.transport().close().await) };
        let closed = timeout(CLOSE_LIMIT, transports).await.unwrap_or_else(|_| {
            let error = Error::timeout("a transport did not close in time", CLOSE_LIMIT);
            Err(error.during("closing the bus"))
        });
        drained.and(hooks).and(closed)
    }

    /// Waits for all consumers, including one that was being set up when the drain started.
    async fn ended(&self, consumers: &mut JoinSet<()>) {
        loop {
            while consumers.join_next().await.is_some() {}
            *consumers = std::mem::take(&mut self.inner.state().consumers);
            if consumers.is_empty() {
                return;
            }
        }
    }

    /// Describes what is in progress.
    fn still_running(&self) -> String {
        let state = self.inner.state();
        let busy = state.progress.iter().filter_map(|part| {
            let count = part.health().in_progress;
            (count > 0).then(|| format!("{} ({count})", part.what()))
        });
        let busy: Vec<_> = busy.collect();
        if busy.is_empty() { "nothing that is counted".to_owned() } else { busy.join(", ") }
    }
}

fn late(what: &'static str, limit: Duration) -> Error {
    Error::new(ErrorKind::Timeout, what)
        .during("closing the bus")
        .with("limit", format!("{limit:?}"))
        .hint("Give it longer with `Bus::builder().drain_timeout(…)`")
}
