//! The progress of each worker, listener and task of a process.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
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
    /// How many calls, events or runs are in progress.
    pub in_progress: u64,
    /// The time since it last started something, or since its own start. Serialised in seconds.
    #[serde(serialize_with = "in_seconds")]
    pub quiet_for: Duration,
    /// How often it was restarted, because the transport had given up or because it was stalled.
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
    /// Its subscription has ended, and it is about to subscribe again.
    Restarting,
    /// There is work, and it takes none. It is about to be restarted.
    Stalled,
    /// A task whose last run failed.
    Failed,
}

fn as_text<S: serde::Serializer>(name: &Name, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(name)
}

fn in_seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

/// The counters of a part of the process.
#[derive(Debug)]
pub(crate) struct Progress {
    kind: PartKind,
    name: Name,
    start: Instant,
    began: AtomicU64,
    finished: AtomicU64,
    /// When something last started, in milliseconds after `start`.
    last: AtomicU64,
    restarts: AtomicU64,
    restarting: AtomicBool,
    stalled: AtomicBool,
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
            began: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            last: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            restarting: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
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

    /// Describes the part for the log.
    pub(crate) fn what(&self) -> String {
        match self.kind {
            PartKind::Worker => format!("worker of {}", self.name),
            PartKind::Listener => format!("listener {}", self.name),
            PartKind::Task => format!("task {}", self.name),
        }
    }

    fn touch(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(now, Ordering::Relaxed);
    }

    pub(crate) fn began(&self) {
        self.began_many(1);
    }

    /// Counts `count` started. The clock is read once for all of them.
    pub(crate) fn began_many(&self, count: u64) {
        self.began.fetch_add(count, Ordering::Relaxed);
        self.stalled.store(false, Ordering::Relaxed);
        self.touch();
    }

    /// Counts one as finished, successfully or not. The clock is not read: the next start does that.
    pub(crate) fn done(&self) {
        self.done_many(1);
    }

    pub(crate) fn done_many(&self, count: u64) {
        self.finished.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn succeeded(&self) {
        self.touch();
        self.lock_error().take();
    }

    pub(crate) fn failed(&self, reason: &str) {
        self.touch();
        *self.lock_error() = Some(reason.to_owned());
    }

    /// Called with a new subscription.
    pub(crate) fn subscribed(&self, connectivity: Connectivity) {
        *self.connectivity.lock().unwrap_or_else(PoisonError::into_inner) = connectivity;
        self.restarting.store(false, Ordering::Relaxed);
        self.stalled.store(false, Ordering::Relaxed);
        self.lock_error().take();
    }

    /// Called when the subscription has ended and is about to be restarted.
    pub(crate) fn ended(&self, error: &Error) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        self.restarting.store(true, Ordering::Relaxed);
        self.cannot_restart(error);
    }

    /// Called when a restart has failed. It will be retried.
    pub(crate) fn cannot_restart(&self, error: &Error) {
        *self.lock_error() = Some(error.to_string());
    }

    /// Called when there is work and none is taken.
    pub(crate) fn stalled(&self, why: &str) {
        self.stalled.store(true, Ordering::Relaxed);
        *self.lock_error() = Some(why.to_owned());
    }

    fn lock_error(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many were started in all, and whether any of them still runs.
    pub(crate) fn count(&self) -> (u64, bool) {
        let finished = self.finished.load(Ordering::Relaxed);
        let began = self.began.load(Ordering::Relaxed);
        (began, began > finished)
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.connectivity.lock().unwrap_or_else(PoisonError::into_inner).is_interrupted()
    }

    pub(crate) fn health(&self) -> PartHealth {
        let finished = self.finished.load(Ordering::Relaxed);
        let in_progress = self.began.load(Ordering::Relaxed).saturating_sub(finished);
        let last_error = self.lock_error().clone();
        let condition = if self.restarting.load(Ordering::Relaxed) {
            Condition::Restarting
        } else if self.is_interrupted() {
            Condition::Interrupted
        } else if self.stalled.load(Ordering::Relaxed) {
            Condition::Stalled
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
            quiet_for: self.start.elapsed().saturating_sub(last),
            restarts: self.restarts.load(Ordering::Relaxed),
            last_error,
        }
    }
}
