//! The breaker: a dependency that is away must not send a backlog to the dead letters.
//!
//! Whether an event or what its handler depends on is to blame shows only in comparison: while other
//! events are handled, a failing one is bad; where several different ones fail in a row and none is
//! handled in between, something behind the handler is away. Then the breaker opens. While it is
//! open, nothing begins but a probe, one event at a time, after waits with exponential backoff; tries
//! made meanwhile do not count. The first event that is handled closes it.
//!
//! Every try goes through [`pass`](Breaker::pass) and tells how it ended: [`succeeded`](Breaker::succeeded)
//! or [`failed`](Breaker::failed). On the way of an event whose handler succeeds that is one load and
//! one addition.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lightbus_core::{Backoff, Name};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::on_error::RetryPolicy;
use crate::bus::shared::Progress;

/// So many different events that fail in a row open it.
const TRIP: usize = 5;
/// So many are enough where one of them has used up its tries.
const TRIP_EXHAUSTED: usize = 2;

/// Notes how the events of a listener end, and holds them back while all of them fail.
pub(super) struct Breaker {
    enabled: bool,
    progress: Arc<Progress>,
    open: AtomicBool,
    /// Whether `state` has anything that a success ends.
    failing: AtomicBool,
    successes: AtomicU64,
    state: Mutex<State>,
    /// Counts the times that the breaker has closed; rung when anything changes.
    closed: watch::Sender<u64>,
    probes: Semaphore,
}

struct State {
    /// Different events that have failed since the last success.
    failed: Vec<Name>,
    waits: Backoff,
}

/// Leave to make a try. While it is held by a probe, no other begins.
pub(super) struct Pass<'a>(#[expect(dead_code, reason = "held")] Option<SemaphorePermit<'a>>);

impl Breaker {
    pub(super) fn new(policy: Option<RetryPolicy>, progress: &Arc<Progress>) -> Self {
        let policy = policy.filter(|policy| policy.breaker && policy.attempts > 1);
        let RetryPolicy { first_wait, longest_wait, .. } = policy.unwrap_or_default();
        Self {
            enabled: policy.is_some(),
            progress: Arc::clone(progress),
            open: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            successes: AtomicU64::new(0),
            state: Mutex::new(State {
                failed: Vec::new(),
                waits: Backoff::new(first_wait, longest_wait),
            }),
            closed: watch::Sender::new(0),
            probes: Semaphore::new(1),
        }
    }

    pub(super) fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// How many events have been handled.
    pub(super) fn successes(&self) -> u64 {
        self.successes.load(Ordering::Relaxed)
    }

    /// Counts the times that it has closed: tries before the last of them count no more.
    pub(super) fn round(&self) -> u64 {
        *self.closed.borrow()
    }

    /// Waits until a try may be made: at once while it is closed, in turn and after a wait while it is
    /// open.
    pub(super) async fn pass(&self) -> Pass<'_> {
        if !self.is_open() {
            return Pass(None);
        }
        let mut closed = self.closed.subscribe();
        let round = *closed.borrow_and_update();
        let Ok(probe) = self.probes.acquire().await else { return Pass(None) };
        if !self.is_open() {
            return Pass(None);
        }
        let wait = self.state().waits.failed();
        tokio::select! {
            _ = closed.wait_for(|now| *now != round) => Pass(None),
            () = tokio::time::sleep(wait) => Pass(Some(probe)),
        }
    }

    /// An event was handled.
    pub(super) fn succeeded(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
        if !self.failing.load(Ordering::Relaxed) {
            return;
        }
        {
            let mut state = self.state();
            state.failed.clear();
            state.waits.succeeded();
            self.failing.store(false, Ordering::Relaxed);
        }
        let closes = self.open.swap(false, Ordering::AcqRel);
        if closes {
            tracing::info!(consumer = self.progress.what(), "events are handled again");
            self.progress.set_failing(None);
        }
        self.closed.send_modify(|round| *round += u64::from(closes));
    }

    /// An event was not handled. `exhausted`: it has used up its tries. Returns whether the breaker is
    /// open now.
    pub(super) fn failed(&self, id: &Name, reason: &str, exhausted: bool) -> bool {
        if !self.enabled {
            return false;
        }
        let different = {
            let mut state = self.state();
            self.failing.store(true, Ordering::Relaxed);
            if state.failed.len() < TRIP && !state.failed.contains(id) {
                state.failed.push(Name::clone(id));
            }
            state.failed.len()
        };
        let enough = if exhausted { TRIP_EXHAUSTED } else { TRIP };
        if different >= enough && !self.open.swap(true, Ordering::AcqRel) {
            tracing::error!(
                consumer = self.progress.what(),
                different,
                reason,
                "different events fail one after the other: the listener waits, and probes with one of them"
            );
            self.progress.set_failing(Some(reason));
            // Who waits for another event to tell looks again.
            self.closed.send_modify(|_| {});
        }
        self.is_open()
    }

    /// Hears when it opens or closes, and when an event is handled after others have failed.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.closed.subscribe()
    }

    /// How long an event that has used up its tries waits for another one to compare with: four times
    /// as long as its tries took, at most the policy's longest wait.
    pub(super) fn patience(tried_for: Duration, policy: &RetryPolicy) -> Duration {
        tried_for.saturating_mul(4).min(policy.longest_wait)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn breaker() -> Breaker {
        Breaker::new(Some(RetryPolicy::default()), &Progress::listener(&"mail".into()))
    }

    fn fail(breaker: &Breaker, id: &str, exhausted: bool) -> bool {
        breaker.failed(&id.into(), "no", exhausted)
    }

    #[test]
    fn one_event_that_fails_for_ever_does_not_open_it_and_a_success_between_counts() {
        let breaker = breaker();
        for _ in 0..20 {
            assert!(!fail(&breaker, "bad", true));
        }
        breaker.succeeded();
        assert!(!fail(&breaker, "another", true), "others were handled in between");
        assert!(fail(&breaker, "a third", true), "one has used up its tries, and another fails");
    }

    #[test]
    fn several_different_ones_open_it_before_their_tries_are_used_up() {
        let breaker = breaker();
        let open: Vec<_> = ["a", "b", "c", "d", "e"].map(|id| fail(&breaker, id, false)).into();
        assert_eq!(open, [false, false, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn while_it_is_open_one_at_a_time_probes_and_a_success_lets_all_go_on() {
        let breaker = Arc::new(breaker());
        fail(&breaker, "a", true);
        fail(&breaker, "b", true);
        let began = Instant::now();
        let probe = breaker.pass().await;
        assert!(began.elapsed() >= Duration::from_millis(90));
        let second = tokio::spawn({
            let breaker = Arc::clone(&breaker);
            async move { drop(breaker.pass().await) }
        });
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(!second.is_finished(), "one probe at a time");
        breaker.succeeded();
        drop(probe);
        second.await.unwrap();
        assert_eq!(breaker.round(), 1);
        let began = Instant::now();
        drop(breaker.pass().await);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
