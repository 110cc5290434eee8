//! Background tasks.

use lightbus_core::Name;
use tokio::sync::watch;

use super::{Once, RunningTask, Task, Work};
use crate::bus::shared::{Bus, HandlerResult, Phase, catch_panic, drained};

impl Bus {
    /// Adds a task that runs in the background while the process [runs](Self::run). It may run forever,
    /// or return `Ok(())` when there is nothing left to do.
    ///
    /// If it fails or panics, the process drains and ends with that error, as in Python.
    ///
    /// # Cancel safety
    ///
    /// When the bus drains, the task's future is dropped at the await it is suspended in.
    ///
    /// # Errors
    ///
    /// [`Config`](lightbus_core::ErrorKind::Config) if this process already has a task of this name.
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
        self.progress.limit(None);
        let begun = self.progress.began();
        let done = tokio::select! {
            biased;
            () = drained(&mut phase) => return,
            done = catch_panic(async { once(bus).await }) => done,
        };
        drop(begun);
        match done {
            Ok(Ok(())) => {
                self.progress.succeeded();
                tracing::info!(task = %Name::clone(&self.name), "background task finished");
            }
            Ok(Err(error)) => self.failed(error.reason(), true),
            Err(panic) => self.failed(format!("it panicked: {panic}"), true),
        }
    }
}
