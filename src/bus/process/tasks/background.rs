//! Tasks that go on while the process runs.

use lightbus_core::Name;
use tokio::sync::watch;

use super::{Once, RunningTask, Task, Work};
use crate::bus::shared::{Bus, HandlerResult, Phase, catch_panic, drained};

impl Bus {
    /// Does something in the background while the process [runs](Self::run). It may go on for ever,
    /// or return `Ok(())` when there is nothing more to do. When the bus drains, it is dropped where
    /// it waits.
    ///
    /// If it fails or panics, the process ends with that error after draining, as in Python.
    ///
    /// # Errors
    ///
    /// [`Config`](lightbus_core::ErrorKind::Config) if this process has a task of this name.
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # async fn example(bus: &Bus, mut orders: tokio::sync::mpsc::Receiver<String>) -> lightbus::Result<()> {
    /// bus.background("import", |bus| async move {
    ///     while let Some(order) = orders.recv().await {
    ///         bus.fire_event("shop.ordered", args! { order: order }).await?;
    ///     }
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    pub fn background<F, Fut>(&self, name: &str, work: F) -> Task
    where
        F: FnOnce(Bus) -> Fut + Send + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.task(name, Ok(Work::Background(Box::new(move |bus| Box::pin(work(bus))))))
    }
}

impl RunningTask {
    pub(super) async fn background(self, once: Once, mut phase: watch::Receiver<Phase>) {
        let Some(inner) = self.inner.upgrade() else { return };
        let bus = Bus { inner };
        self.progress.began();
        let done = tokio::select! {
            biased;
            () = drained(&mut phase) => return,
            done = catch_panic(async { once(bus).await }) => done,
        };
        self.progress.done();
        match done {
            Ok(Ok(())) => {
                self.progress.succeeded();
                tracing::info!(task = %Name::clone(&self.name), "a background task is done");
            }
            Ok(Err(error)) => self.failed(error.to_string(), true),
            Err(panic) => self.failed(format!("it panicked: {panic}"), true),
        }
    }
}
