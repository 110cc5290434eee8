//! Cancelling all running handlers of an API together.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Cancels the handlers that hold its flag, at the latest when it is dropped.
///
/// A `JoinSet` would do the same at the price of a lock and two allocations per handler, which is more
/// than a short procedure costs.
#[derive(Default)]
pub(super) struct Handlers(Arc<CancelFlag>);

/// Signals to a handler that it has been cancelled.
#[derive(Default)]
pub(super) struct CancelFlag {
    ended: AtomicBool,
    bell: Notify,
}

impl Handlers {
    pub(super) fn flag(&self) -> Arc<CancelFlag> {
        Arc::clone(&self.0)
    }

    /// Cancels the handlers: each is dropped at the await it is suspended in.
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
    /// Runs a handler to its end. Returns `None` if it was cancelled before that. A handler that never
    /// suspends pays nothing.
    pub(super) async fn run<T>(&self, handler: impl Future<Output = T>) -> Option<T> {
        // Registered before the flag is read: a notification between the two is not missed.
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
