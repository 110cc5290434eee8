//! Matches results to the callers that wait for them, by the id of the call.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use crate::{Error, Name, Result, ResultMessage, ReturnPath};

/// The calls of a process that wait for their results. A transport keeps one and feeds it from
/// its one connection that receives results.
#[derive(Clone, Default)]
pub struct PendingResults(Arc<Inner>);

#[derive(Default)]
struct Inner {
    waiting: Mutex<Waiting>,
    unclaimed: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    senders: HashMap<Name, oneshot::Sender<Result<ResultMessage>>>,
    closed: bool,
}

impl PendingResults {
    /// Nobody waits yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers the call `id`, whose result is to be sent to `return_path`.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) after [`close`](Self::close).
    pub fn register(&self, id: Name, return_path: ReturnPath) -> Result<PendingResult> {
        let (sender, receiver) = oneshot::channel();
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(Error::closed("the result transport"));
        }
        waiting.senders.insert(Arc::clone(&id), sender);
        drop(waiting);
        Ok(PendingResult {
            return_path,
            receiver,
            registration: Registration { results: self.clone(), id },
        })
    }

    /// Hands a result to the call that it answers. Gives `false`, and counts it, if nobody waits.
    pub fn complete(&self, result: ResultMessage) -> bool {
        let sender = self.waiting().senders.remove(&result.rpc_id);
        let taken = sender.is_some_and(|sender| sender.send(Ok(result)).is_ok());
        if !taken {
            self.0.unclaimed.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// How many calls wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting().senders.len()
    }

    /// Whether no call waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many results came that nobody waited for.
    #[must_use]
    pub fn unclaimed(&self) -> u64 {
        self.0.unclaimed.load(Ordering::Relaxed)
    }

    /// Ends all waiting calls with [`Closed`](crate::ErrorKind::Closed), now and in future.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        for (_, sender) in waiting.senders.drain() {
            let _ = sender.send(Err(Error::closed("the result transport")));
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it is locked, and a map is whole after any panic.
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for PendingResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingResults")
            .field("waiting", &self.len())
            .field("unclaimed", &self.unclaimed())
            .finish()
    }
}

/// The result of one call, which is still to come. Awaiting it gives the result; dropping it ends
/// the registration at once.
pub struct PendingResult {
    return_path: ReturnPath,
    receiver: oneshot::Receiver<Result<ResultMessage>>,
    registration: Registration,
}

impl PendingResult {
    /// Where the result is to be sent: goes with the call.
    #[must_use]
    pub fn return_path(&self) -> &ReturnPath {
        &self.return_path
    }
}

impl Future for PendingResult {
    type Output = Result<ResultMessage>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(context)
            .map(|received| received.unwrap_or_else(|_| Err(Error::closed("the result transport"))))
    }
}

impl fmt::Debug for PendingResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingResult").field("id", &self.registration.id).finish_non_exhaustive()
    }
}

struct Registration {
    results: PendingResults,
    id: Name,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.results.waiting().senders.remove(&self.id);
    }
}
