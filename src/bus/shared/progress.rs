//! The progress of each worker, listener and task of a process.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use lightbus_core::{Connectivity, Error, Name};
use serde::Serialize;
use tokio::{sync::Notify, time::Instant};

/// The state of a worker, a listener or a task.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PartHealth {
    /// What it is.
    pub kind: PartKind,
    /// The API that a worker serves, or the name of a listener or a task.
    #[serde(serialize_with = "as_text")]
    pub name: Name,
    /// What it is doing.
    pub condition: Condition,
    /// How many calls, events or runs it has finished, successfully or not.
    pub finished: u64,
    /// How many are in progress. What was taken from the broker and has not started does not count.
    pub in_progress: u64,
    /// How long the oldest of them has been in progress, if any is. Waiting for a retry, or for the broker
    /// to take a result, does not count. Serialised in seconds.
    #[serde(serialize_with = "in_seconds_if_any", skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Duration>,
    /// The time since it last started something, or since its own start. Serialised in seconds.
    #[serde(serialize_with = "in_seconds")]
    pub quiet_for: Duration,
    /// How often it was restarted, because the transport had given up, it was stalled, or it panicked.
    pub restarts: u64,
    /// The last error of the part as a whole, if it has not worked since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// The kinds of parts of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PartKind {
    /// Answers the calls of an API.
    Worker,
    /// Handles events.
    Listener,
    /// Runs periodically, or in the background.
    Task,
    /// A task of the bus itself. Reported only once it has panicked and was restarted.
    Internal,
}

/// What a part of a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// There is nothing to do.
    Idle,
    /// It is working.
    Busy,
    /// The broker does not answer; the transport keeps trying.
    Interrupted,
    /// It has ended, and is about to be restarted.
    Restarting,
    /// There is work, and it takes none. It is about to be restarted.
    Stalled,
    /// The oldest call, event or run in progress has exceeded its time limit, or five minutes if there
    /// is none: it hangs, or blocks its thread.
    Stuck,
    /// A task whose last run failed.
    Failed,
    /// Different events fail one after the other, as when a database is away: nothing is taken but
    /// one event to probe with.
    Failing,
    /// Paused by [`Bus::pause`](crate::Bus::pause).
    Paused,
}

fn as_text<S: serde::Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name)
}

fn in_seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

fn in_seconds_if_any<S: serde::Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => in_seconds(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// The age at which work counts as stuck if it has no time limit.
const STUCK_AFTER: Duration = Duration::from_secs(300);
/// How far work may exceed its time limit before it counts as stuck: cutting it off takes a moment.
const CUTTING_OFF: Duration = Duration::from_secs(1);

/// The counters of a part of the process.
#[derive(Debug)]
pub(crate) struct Progress {
    kind: PartKind,
    name: Name,
    start: Instant,
    taken: AtomicU64,
    finished: AtomicU64,
    at_work: Mutex<AtWork>,
    /// How many are begun and neither settled nor returned: in progress, or waiting for a retry.
    held: AtomicU64,
    /// The age at which work counts as stuck; `None` for never.
    stuck_after: Mutex<Option<Duration>>,
    /// When something last started, in milliseconds after `start`.
    last: AtomicU64,
    restarts: AtomicU64,
    restarting: AtomicBool,
    stalled: AtomicBool,
    failing: AtomicBool,
    paused: AtomicBool,
    last_error: Mutex<Option<String>>,
    /// Notified to have the consumer restarted.
    pub(crate) renew: Notify,
    connectivity: Mutex<Connectivity>,
}

impl Progress {
    fn new(kind: PartKind, name: &Name) -> Arc<Self> {
        Arc::new(Self {
            kind,
            name: Name::clone(name),
            start: Instant::now(),
            taken: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            at_work: Mutex::default(),
            held: AtomicU64::new(0),
            stuck_after: Mutex::new(Some(STUCK_AFTER)),
            last: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            restarting: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            last_error: Mutex::default(),
            renew: Notify::new(),
            connectivity: Mutex::default(),
        })
    }

    pub(crate) fn worker(api: &Name) -> Arc<Self> {
        Self::new(PartKind::Worker, api)
    }

    pub(crate) fn listener(name: &Name) -> Arc<Self> {
        Self::new(PartKind::Listener, name)
    }

    pub(crate) fn task(name: &Name) -> Arc<Self> {
        Self::new(PartKind::Task, name)
    }

    pub(crate) fn internal(name: &Name) -> Arc<Self> {
        let progress = Self::new(PartKind::Internal, name);
        progress.limit(None);
        progress
    }

    /// Describes the part for the log.
    pub(crate) fn what(&self) -> String {
        match self.kind {
            PartKind::Worker => format!("worker of {}", self.name),
            PartKind::Listener => format!("listener {}", self.name),
            PartKind::Task => format!("task {}", self.name),
            PartKind::Internal => self.name.to_string(),
        }
    }

    /// Names what it takes from the broker.
    pub(crate) fn takes(&self) -> &'static str {
        if self.kind == PartKind::Worker { "calls" } else { "events" }
    }

    fn touch(&self, now: Instant) {
        let passed = now.saturating_duration_since(self.start).as_millis();
        self.last.store(u64::try_from(passed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Sets the time limit of work, beyond which it counts as stuck: five minutes unless set. `None` for
    /// work that may take any time.
    pub(crate) fn limit(&self, limit: Option<Duration>) {
        let limit = limit.map(|limit| limit.saturating_add(CUTTING_OFF));
        *self.stuck_after.lock().unwrap_or_else(PoisonError::into_inner) = limit;
    }

    /// Counts `count` taken from the broker.
    pub(crate) fn took(&self, count: usize) {
        self.taken.fetch_add(count as u64, Ordering::Relaxed);
        self.stalled.store(false, Ordering::Relaxed);
    }

    /// Counts one as in progress until the returned guard is dropped.
    pub(crate) fn began(&self) -> InProgress<'_> {
        self.began_many(1)
    }

    /// As [`began`](Self::began), for work with a time limit of its own.
    pub(crate) fn began_until(&self, limit: Instant) -> InProgress<'_> {
        self.begin(Instant::now(), 1, limit.checked_add(CUTTING_OFF))
    }

    /// Counts `count` as in progress together, as a batch, until the returned guard is dropped.
    pub(crate) fn began_many(&self, count: usize) -> InProgress<'_> {
        let now = Instant::now();
        let limit = *self.stuck_after.lock().unwrap_or_else(PoisonError::into_inner);
        self.begin(now, count as u64, limit.and_then(|limit| now.checked_add(limit)))
    }

    fn begin(&self, began: Instant, count: u64, stuck_at: Option<Instant>) -> InProgress<'_> {
        let place = self.lock_work().begin(Since { began, stuck_at }, count);
        self.touch(began);
        InProgress { progress: self, place, count }
    }

    pub(crate) fn succeeded(&self) {
        self.touch(Instant::now());
        self.lock_error().take();
    }

    pub(crate) fn failed(&self, reason: &str) {
        self.touch(Instant::now());
        *self.lock_error() = Some(reason.to_owned());
    }

    /// Called with a new subscription.
    pub(crate) fn subscribed(&self, connectivity: Connectivity) {
        *self.connectivity.lock().unwrap_or_else(PoisonError::into_inner) = connectivity;
        self.restarting.store(false, Ordering::Relaxed);
        self.stalled.store(false, Ordering::Relaxed);
        self.lock_error().take();
    }

    /// Called when it has ended and is about to be restarted.
    pub(crate) fn ended(&self, error: &Error) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        self.restarting.store(true, Ordering::Relaxed);
        self.cannot_restart(error);
    }

    /// Called when it has been restarted.
    pub(crate) fn restarted(&self) {
        self.restarting.store(false, Ordering::Relaxed);
    }

    pub(crate) fn has_restarted(&self) -> bool {
        self.restarts.load(Ordering::Relaxed) > 0
    }

    /// Called when a restart has failed. It will be retried.
    pub(crate) fn cannot_restart(&self, error: &Error) {
        *self.lock_error() = Some(error.to_string());
    }

    /// Different events fail one after the other, or one is handled again.
    pub(crate) fn set_failing(&self, reason: Option<&str>) {
        self.failing.store(reason.is_some(), Ordering::Relaxed);
        *self.lock_error() = reason.map(str::to_owned);
    }

    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    pub(crate) fn is_listener(&self, name: &str) -> bool {
        self.kind == PartKind::Listener && &*self.name == name
    }

    /// Called when there is work and none is taken.
    pub(crate) fn stalled(&self, why: &str) {
        self.stalled.store(true, Ordering::Relaxed);
        *self.lock_error() = Some(why.to_owned());
    }

    fn lock_error(&self) -> MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_work(&self) -> MutexGuard<'_, AtWork> {
        self.at_work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one as begun until the returned guard is dropped, also while it waits for a retry.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        self.held.fetch_add(1, Ordering::Relaxed);
        Held(Arc::clone(self))
    }

    /// Returns how many were taken in all, and whether any is in progress or waits for a retry.
    pub(crate) fn count(&self) -> (u64, bool) {
        let busy = self.held.load(Ordering::Relaxed) > 0 || self.lock_work().count > 0;
        (self.taken.load(Ordering::Relaxed), busy)
    }

    /// Returns how many are in progress.
    pub(crate) fn in_progress(&self) -> u64 {
        self.lock_work().count
    }

    /// Whether anything in progress has exceeded its time limit.
    fn is_stuck(&self) -> bool {
        let now = Instant::now();
        let work = self.lock_work();
        work.since.iter().flatten().filter_map(|since| since.stuck_at).any(|at| at < now)
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.connectivity.lock().unwrap_or_else(PoisonError::into_inner).is_interrupted()
    }

    pub(crate) fn health(&self) -> PartHealth {
        let finished = self.finished.load(Ordering::Relaxed);
        let (in_progress, oldest) = {
            let work = self.lock_work();
            (work.count, work.oldest().map(|since| since.elapsed()))
        };
        let last_error = self.lock_error().clone();
        let condition = if self.paused.load(Ordering::Relaxed) {
            Condition::Paused
        } else if self.failing.load(Ordering::Relaxed) {
            Condition::Failing
        } else if self.restarting.load(Ordering::Relaxed) {
            Condition::Restarting
        } else if self.is_interrupted() {
            Condition::Interrupted
        } else if self.stalled.load(Ordering::Relaxed) {
            Condition::Stalled
        } else if self.is_stuck() {
            Condition::Stuck
        } else if in_progress > 0 {
            Condition::Busy
        } else if self.kind == PartKind::Task && last_error.is_some() {
            Condition::Failed
        } else {
            Condition::Idle
        };
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        PartHealth {
            kind: self.kind,
            name: Name::clone(&self.name),
            condition,
            finished,
            in_progress,
            oldest,
            quiet_for: self.start.elapsed().saturating_sub(last),
            restarts: self.restarts.load(Ordering::Relaxed),
            last_error,
        }
    }
}

/// When work began, and when it counts as stuck: never if it may take any time.
#[derive(Clone, Copy, Debug)]
struct Since {
    began: Instant,
    stuck_at: Option<Instant>,
}

/// What is in progress. Work that rests has a place and no time. Places are reused.
#[derive(Debug, Default)]
struct AtWork {
    since: Vec<Option<Since>>,
    free: Vec<usize>,
    count: u64,
}

impl AtWork {
    fn begin(&mut self, since: Since, count: u64) -> usize {
        self.count = self.count.saturating_add(count);
        if let Some(place) = self.free.pop() {
            self.since[place] = Some(since);
            return place;
        }
        self.since.push(Some(since));
        self.since.len() - 1
    }

    fn oldest(&self) -> Option<Instant> {
        self.since.iter().flatten().map(|since| since.began).min()
    }
}

/// Work in progress. Dropping it counts the work as finished, successfully or not.
#[derive(Debug)]
#[must_use = "dropped, it counts as finished"]
pub(crate) struct InProgress<'a> {
    progress: &'a Progress,
    place: usize,
    count: u64,
}

impl InProgress<'_> {
    /// Stops its age while it waits for something else, such as the next attempt.
    pub(crate) fn rests(&self) {
        self.progress.lock_work().since[self.place] = None;
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        {
            let mut work = self.progress.lock_work();
            work.since[self.place] = None;
            work.free.push(self.place);
            work.count = work.count.saturating_sub(self.count);
        }
        self.progress.finished.fetch_add(self.count, Ordering::Relaxed);
    }
}

/// Work that is begun and neither settled nor returned.
#[derive(Debug)]
pub(crate) struct Held(Arc<Progress>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_at_work_counts_and_what_rests_does_not() {
        let progress = Progress::listener(&"mail".into());
        progress.limit(Some(Duration::from_secs(10)));
        let first = progress.began();
        tokio::time::advance(Duration::from_secs(8)).await;
        let batch = progress.began_many(20);
        let health = progress.health();
        assert_eq!((health.in_progress, health.condition), (21, Condition::Busy));
        assert_eq!(health.oldest, Some(Duration::from_secs(8)));

        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(progress.health().condition, Condition::Stuck);
        first.rests();
        assert_eq!(progress.health().oldest, Some(Duration::from_secs(4)));
        drop(batch);
        assert_eq!(progress.health().oldest, None, "what rests has no age");
        drop(first);
        let health = progress.health();
        assert_eq!((health.in_progress, health.finished, health.oldest), (0, 21, None));
        assert_eq!(health.condition, Condition::Idle);

        progress.limit(None);
        let _forever = progress.began();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(progress.health().condition, Condition::Busy);
        let _limited = progress.began_until(Instant::now() + Duration::from_secs(3));
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(progress.health().condition, Condition::Busy, "cutting off takes a moment");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(progress.health().condition, Condition::Stuck, "by a limit of its own");
    }
}
