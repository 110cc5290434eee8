//! What a process does once at its start and once at its end.

use lightbus_core::{Error, ErrorKind, Result};

use crate::bus::shared::{Bus, HandlerResult, Hook, catch_panic};

impl Bus {
    /// Does this when [`run`](Self::run) begins, before scheduled and background tasks start: after
    /// what was added before it. The place to prepare what handlers need; an API that is to take
    /// calls only then is served in here.
    ///
    /// If it fails or panics, those that follow are left out, and the process ends with that error
    /// after draining.
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # fn example(bus: &Bus) {
    /// bus.on_start(|bus| async move {
    ///     println!("{} begins", bus.service_name());
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

    /// Does this when the bus has drained, before it closes: by then nothing is taken any more and
    /// what ran has finished, but the process may still call and fire. After what was added before it.
    ///
    /// It runs whatever ended the process, also without [`run`](Self::run) when the bus is
    /// [closed](Self::close). If it fails or panics, that is logged and the others run. All together
    /// have the time that draining has.
    pub fn on_stop<F, Fut>(&self, hook: F)
    where
        F: FnOnce(Bus) -> Fut + Send + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.inner().state().stop_hooks.push(Box::new(move |bus| Box::pin(hook(bus))));
    }

    /// Runs what was added for the start; the first failure ends it. Hooks may add further ones.
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

    /// Runs what was added for the end, all of it. Gives the first failure.
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
