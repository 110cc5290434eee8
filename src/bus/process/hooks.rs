//! Hooks that run once, at the start and at the end of a process.

use lightbus_core::{Error, ErrorKind, Result};

use crate::bus::shared::{Bus, HandlerResult, Hook, catch_panic};

impl Bus {
    /// Adds a hook that runs when [`run`](Self::run) begins, before scheduled and background tasks are
    /// started. Hooks run in the order in which they were added. Prepare here what handlers need, and
    /// serve and listen here to what must wait for it.
    ///
    /// If a hook fails or panics, the remaining ones are skipped, and the process drains and ends with
    /// that error.
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # fn example(bus: &Bus) {
    /// bus.on_start(|bus| async move {
    ///     println!("{} starts", bus.service_name());
    ///     Ok(())
    /// });
    /// # }
    /// ```
    pub fn on_start<F, Fut>(&self, hook: F)
    where
        F: FnOnce(Bus) -> Fut + Send + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.inner().state().start_hooks.push(Box::new(move |bus| Box::pin(hook(bus))));
    }

    /// Adds a hook that runs once the bus has drained, before it closes. By then handlers have finished
    /// and nothing is taken any more, but the process may still call and fire. Hooks run in the order in
    /// which they were added.
    ///
    /// Hooks run whatever ended the process, and also without [`run`](Self::run), when the bus is
    /// [closed](Self::close). If one fails or panics, the failure is logged and the others run.
    /// Together they may take as long as [`drain_timeout`](crate::BusBuilder::drain_timeout) says.
    pub fn on_stop<F, Fut>(&self, hook: F)
    where
        F: FnOnce(Bus) -> Fut + Send + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.inner().state().stop_hooks.push(Box::new(move |bus| Box::pin(hook(bus))));
    }

    /// Runs the start hooks, and those that they add. Stops at the first failure.
    pub(super) async fn run_start_hooks(&self) -> Result<()> {
        loop {
            let hooks = std::mem::take(&mut self.inner().state().start_hooks);
            if hooks.is_empty() {
                return Ok(());
            }
            for hook in hooks {
                run(self, hook).await.map_err(|error| error.during("running an on_start hook"))?;
            }
        }
    }

    /// Runs all stop hooks. Returns the first failure.
    pub(super) async fn run_stop_hooks(&self) -> Result<()> {
        let hooks = std::mem::take(&mut self.inner().state().stop_hooks);
        let mut first = Ok(());
        for hook in hooks {
            if let Err(error) = run(self, hook).await {
                let error = error.during("running an on_stop hook");
                tracing::error!(%error, "a hook failed");
                first = first.and(Err(error));
            }
        }
        first
    }
}

async fn run(bus: &Bus, hook: Hook) -> Result<()> {
    let reason = match catch_panic(async { hook(bus.clone()).await }).await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => format!("it panicked: {panic}"),
    };
    Err(Error::new(ErrorKind::Unexpected, reason))
}
