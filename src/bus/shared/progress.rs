//! What each part of a process gets done, counted as it works.

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

/// How a worker, a listener or a task is.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PartHealth {
    /// What it is.
    pub kind: PartKind,
    /// The API that a worker serves; the name of a listener or a task.
    #[serde(serialize_with = "as_text")]
    pub name: Name,
    /// What it does at the moment.
    pub condition: Condition,
    /// How many calls, events or runs it has finished, well or not.
    pub finished: u64,
    /// How many it works on now.
    pub in_progress: u64,
    /// Seconds since it last began or finished something, or since its start.
    #[serde(serialize_with = "in_seconds")]
    pub quiet_for: Duration,
    /// How often it was begun anew, because the transport gave it up or it stood still.
    pub restarts: u64,
    /// The last thing that went wrong with it as a whole, if anything did since it last worked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What a part of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PartKind {
    /// Answers the calls of an API.
    Worker,
    /// Handles events.
    Listener,
    /// Is done again and again, or in the background.
    Task,
}

/// What a part of a process does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Condition {
    /// Nothing is to be done.
    Idle,
    /// It works.
    Busy,
    /// The broker does not answer; it is asked again and again.
    Interrupted,
    /// The transport gave it up, and it has not begun anew yet.
    Restarting,
    /// There is work, and it takes none: it is about to be begun anew.
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

/// What a part of the process gets done, counted as it works.
#[derive(Debug)]
pub(crate) struct Progress {
    kind: PartKind,
    name: Name,
    start: Instant,
    began: AtomicU64,
    finished: AtomicU64,
    /// Milliseconds after `start` at which something last began or finished.
    last: AtomicU64,
    restarts: AtomicU64,
    restarting: AtomicBool,
    stalled: AtomicBool,
    last_error: Mutex<Option<String>>,
    /// Rung to have the consumer begun anew.
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

    /// In words, for the log.
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

    /// So many were taken to work on. The clock is looked at once for all of them.
    pub(crate) fn began_many(&self, count: u64) {
        self.began.fetch_add(count, Ordering::Relaxed);
        self.stalled.store(false, Ordering::Relaxed);
        self.touch();
    }

    /// One is finished, well or not. When, is known by the next that begins.
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

    /// The subscription is here, and `connectivity` says whether its broker is.
    pub(crate) fn subscribed(&self, connectivity: Connectivity) {
        *self.connectivity.lock().unwrap_or_else(PoisonError::into_inner) = connectivity;
        self.restarting.store(false, Ordering::Relaxed);
        self.stalled.store(false, Ordering::Relaxed);
        self.lock_error().take();
    }

    /// The subscription has ended and is begun anew.
    pub(crate) fn ended(&self, error: &Error) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        self.restarting.store(true, Ordering::Relaxed);
        self.cannot_begin(error);
    }

    /// It could not be begun anew, and is tried again.
    pub(crate) fn cannot_begin(&self, error: &Error) {
        *self.lock_error() = Some(error.to_string());
    }

    /// There is work, and none is taken.
    pub(crate) fn stalls(&self, why: &str) {
        self.stalled.store(true, Ordering::Relaxed);
        *self.lock_error() = Some(why.to_owned());
    }

    fn lock_error(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many were begun in all, and whether any of them still runs.
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
