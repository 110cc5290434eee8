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

use crate::{Closing, Error, ErrorKind, Name, Result, ResultMessage, Retry, ReturnPath};

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
    senders: HashMap<Name, Waits>,
    closed: bool,
}

/// A call that waits.
struct Waits {
    sender: oneshot::Sender<Result<ResultMessage>>,
    return_path: ReturnPath,
}

impl PendingResults {
    /// No caller waits yet.
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
        let waits = Waits { sender, return_path: return_path.clone() };
        waiting.senders.insert(Arc::clone(&id), waits);
        drop(waiting);
        Ok(PendingResult {
            return_path,
            receiver,
            registration: Registration { results: self.clone(), id },
        })
    }

    /// Hands a result to the call that it answers. Returns `false`, and counts it, if no caller waits.
    pub fn complete(&self, result: ResultMessage) -> bool {
        let waits = self.waiting().senders.remove(&result.rpc_id);
        let taken = waits.is_some_and(|waits| waits.sender.send(Ok(result)).is_ok());
        if !taken {
            self.0.unclaimed.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Fails the call `id`, whose result arrived and cannot be read for this reason. Returns `false` if
    /// no caller waits.
    pub fn fail_unreadable(&self, id: &str, reason: &Error) -> bool {
        let waits = self.waiting().senders.remove(id);
        waits.is_some_and(|waits| {
            let error = Error::new(
                ErrorKind::Malformed,
                format!("the result cannot be read: {}", reason.message()),
            )
            .hint("The procedure has run. Does it return what JSON cannot hold, such as NaN?");
            waits.sender.send(Err(error)).is_ok()
        })
    }

    /// Fails the calls whose results were to be sent to this path, which leads nowhere any more: their
    /// callers must not wait in vain. Returns how many they were.
    ///
    /// They fail with [`Unavailable`](ErrorKind::Unavailable) and
    /// [`Retry::MayDuplicate`](crate::Retry), because their procedures may have run.
    pub fn fail_lost(&self, return_path: &ReturnPath) -> usize {
        let lost: Vec<_> = {
            let mut waiting = self.waiting();
            waiting.senders.extract_if(|_, waits| waits.return_path == *return_path).collect()
        };
        let count = lost.len();
        for (_, waits) in lost {
            let error = Error::new(
                ErrorKind::Unavailable,
                "the connection on which the result was to arrive was lost",
            )
            .retry(Retry::MayDuplicate)
            .hint("The procedure may have run");
            let _ = waits.sender.send(Err(error));
        }
        count
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

    /// How many results came that no caller waited for.
    #[must_use]
    pub fn unclaimed(&self) -> u64 {
        self.0.unclaimed.load(Ordering::Relaxed)
    }

    /// Ends all waiting calls with [`Closed`](crate::ErrorKind::Closed), now and in future.
    pub fn close(&self) {
        let mut waiting = self.waiting();
        waiting.closed = true;
        for (_, waits) in waiting.senders.drain() {
            let _ = waits.sender.send(Err(Error::closed("the result transport")));
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

/// What receives the results of a process, for [`ResultReceiver`].
pub trait Receives: Send + Sync {
    /// Where results have to be sent for it to receive them.
    fn return_path(&self) -> ReturnPath;

    /// Whether it still receives. Another one is started in the place of one that has ended.
    fn is_running(&self) -> bool;
}

/// The receiver of a process' results: started by the first call that expects one, and again if it
/// ended. Dropping `R` ends it.
#[derive(Debug)]
pub struct ResultReceiver<R> {
    running: Mutex<Option<R>>,
    /// Held by the one who starts it, so that a crowd starts one.
    starting: tokio::sync::Mutex<()>,
}

impl<R> Default for ResultReceiver<R> {
    fn default() -> Self {
        Self { running: Mutex::new(None), starting: tokio::sync::Mutex::new(()) }
    }
}

impl<R: Receives> ResultReceiver<R> {
    /// Returns where results are to be sent. Starts the receiver if it does not run.
    ///
    /// # Errors
    ///
    /// Those of `start`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped; the next caller starts the receiver.
    pub async fn return_path<S, F>(&self, closing: &Closing, start: S) -> Result<ReturnPath>
    where
        S: FnOnce() -> F,
        F: Future<Output = Result<R>>,
    {
        match self.running_path() {
            Some(path) => Ok(path),
            // In a box: it happens once, and would be part of every call's future otherwise.
            None => Box::pin(self.start(closing, start())).await,
        }
    }

    async fn start(
        &self,
        closing: &Closing,
        start: impl Future<Output = Result<R>>,
    ) -> Result<ReturnPath> {
        let _turn = self.starting.lock().await;
        if let Some(path) = self.running_path() {
            return Ok(path);
        }
        let receiver = start.await?;
        let path = receiver.return_path();
        *self.running() = Some(receiver);
        if closing.is_closed() {
            // `stop` may have run before there was anything to stop.
            self.stop();
        }
        Ok(path)
    }

    /// Whether results that are sent to this path arrive.
    pub fn is_at(&self, path: &ReturnPath) -> bool {
        self.running_path().as_ref() == Some(path)
    }

    /// Drops the receiver, if there is one.
    pub fn stop(&self) {
        let stopped = self.running().take();
        drop(stopped);
    }

    fn running_path(&self) -> Option<ReturnPath> {
        self.running().as_ref().filter(|receiver| receiver.is_running()).map(Receives::return_path)
    }

    fn running(&self) -> MutexGuard<'_, Option<R>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
