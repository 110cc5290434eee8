//! Handlers at work: each in a task, all of them ended together.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Ends the handlers that watch it when it is dropped.
///
/// A `JoinSet` would do the same, at a lock and two allocations for each handler: more than what a
/// short procedure takes.
#[derive(Default)]
pub(super) struct Handlers(Arc<CancelFlag>);

/// Tells a handler to end.
#[derive(Default)]
pub(super) struct CancelFlag {
    ended: AtomicBool,
    bell: Notify,
}

impl Handlers {
    pub(super) fn flag(&self) -> Arc<CancelFlag> {
        Arc::clone(&self.0)
    }

    /// Ends them: each is dropped where it waits.
    pub(super) fn end(&self) {
        self.0.ended.store(true, Ordering::SeqCst);
        self.0.bell.notify_waiters();
    }
}

impl Drop for Handlers {
    fn drop(&mut self) {
        self.end();
    }
}

impl CancelFlag {
    /// Runs a handler; `None` if it has to end before it is done. One that does not wait for
    /// anything pays nothing.
    pub(super) async fn run<T>(&self, handler: impl Future<Output = T>) -> Option<T> {
        // Hears what rings from now on, also before it is waited for.
        let rung = self.bell.notified();
        if self.ended.load(Ordering::SeqCst) {
            return None;
        }
        tokio::select! {
            biased;
            done = handler => Some(done),
            () = rung => None,
        }
    }
}
