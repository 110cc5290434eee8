//! Hands records from members' threads over to the driver, within the driver's credit.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
};

use lightbus_core::{Error, Result};
use tokio::sync::Notify;

/// Records on their way to the driver: never more than it asked for. Several members may share one.
pub(crate) struct Handoff<I> {
    state: Mutex<State<I>>,
    filled: Notify,
    closed: AtomicBool,
}

struct State<I> {
    /// What the driver asked for and no thread has claimed.
    wanted: usize,
    /// What threads have claimed, and not put or given back.
    claimed: usize,
    ready: VecDeque<I>,
    failed: Option<Error>,
    /// The members' threads, unparked when something is wanted.
    threads: Vec<Thread>,
}

impl<I> Handoff<I> {
    pub(crate) fn new() -> Self {
        let state = State {
            wanted: 0,
            claimed: 0,
            ready: VecDeque::new(),
            failed: None,
            threads: Vec::new(),
        };
        Self { state: Mutex::new(state), filled: Notify::new(), closed: AtomicBool::new(false) }
    }

    /// Waits for records, and returns at most `max`. If the future is dropped, no record is lost.
    pub(crate) async fn fetch(&self, max: usize) -> Result<Vec<I>> {
        loop {
            {
                let mut state = self.state();
                if !state.ready.is_empty() {
                    state.wanted = 0;
                    let count = state.ready.len().min(max);
                    return Ok(state.ready.drain(..count).collect());
                }
                if let Some(error) = state.failed.take() {
                    return Err(error);
                }
                if self.is_closed() {
                    return Err(Error::closed("the subscription"));
                }
                state.wanted = max.saturating_sub(state.claimed);
                state.threads.iter().for_each(Thread::unpark);
            }
            self.filled.notified().await;
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.state().wanted > 0
    }

    /// Claims all that is wanted. Only for a thread that has a record already: others could take
    /// nothing meanwhile.
    pub(crate) fn claim(&self) -> usize {
        let mut state = self.state();
        let claim = std::mem::take(&mut state.wanted);
        state.claimed += claim;
        claim
    }

    /// Hands over what was taken with a claim, and gives the rest of the claim back.
    pub(crate) fn put(&self, items: impl IntoIterator<Item = I>, claim: usize) {
        let mut state = self.state();
        let before = state.ready.len();
        state.ready.extend(items);
        let unused = claim.saturating_sub(state.ready.len() - before);
        state.claimed -= claim.min(state.claimed);
        state.wanted += unused;
        if unused > 0 && state.threads.len() > 1 {
            // Other threads may have found nothing left to claim meanwhile.
            state.threads.iter().for_each(Thread::unpark);
        }
        let filled = state.ready.len() > before;
        drop(state);
        if filled {
            self.filled.notify_one();
        }
    }

    /// Takes back what was not fetched.
    pub(crate) fn clear(&self) -> Vec<I> {
        let mut state = self.state();
        state.wanted = 0;
        state.ready.drain(..).collect()
    }

    /// Ends the fetch under way, or the next one, with an error.
    pub(crate) fn fail(&self, error: Error) {
        self.state().failed.get_or_insert(error);
        self.filled.notify_one();
    }

    pub(crate) fn add_thread(&self, thread: Thread) {
        self.state().threads.push(thread);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.state().threads.iter().for_each(Thread::unpark);
        self.filled.notify_one();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State<I>> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
