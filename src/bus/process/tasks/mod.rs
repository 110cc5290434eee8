//! Tasks: work that a process does on its own, periodically or in the background.

mod background;
#[cfg(feature = "cron")]
mod cron;
mod repeat;
#[cfg(feature = "cron")]
mod zone;

use std::{
    fmt,
    future::IntoFuture,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::BoxFuture;
use lightbus_core::{Error, ErrorKind, Name, Result};
use tokio::{sync::watch, time::Instant};

use crate::bus::shared::{Bus, HandlerResult, Inner, Phase, Progress};

/// Work that runs repeatedly.
type Job = Arc<dyn Fn(Bus) -> BoxFuture<'static, HandlerResult> + Send + Sync>;
/// Work that runs once.
type Once = Box<dyn FnOnce(Bus) -> BoxFuture<'static, HandlerResult> + Send>;

/// A task to be added to a process. Await it to add it.
///
/// Tasks start when [`Bus::run`] begins, after the [`on_start`](Bus::on_start) hooks. A task that is
/// added later starts at once. Every process of a service runs its tasks; there is no leader election.
#[must_use = "a task is added when this is awaited"]
pub struct Task {
    bus: Bus,
    name: Name,
    work: Result<Work>,
    at_once: bool,
    shut_down: bool,
    timeout: Option<Duration>,
}

/// A task that has been added and not started.
struct Added {
    name: Name,
    work: Work,
    at_once: bool,
    shut_down: bool,
    timeout: Option<Duration>,
    progress: Arc<Progress>,
}

enum Work {
    Repeated(Box<dyn Schedule>, Job),
    Background(Once),
}

impl Work {
    /// Describes the task for people.
    fn describe(&self, name: &str) -> String {
        match self {
            Self::Repeated(schedule, _) => format!("{name} {}", schedule.describe()),
            Self::Background(_) => format!("{name} in the background"),
        }
    }
}

/// When repeated work is due.
pub(super) trait Schedule: Send + Sync {
    /// Starts the schedule at `now`.
    fn start(&mut self, now: Instant);

    /// Returns what comes next; `None` if the work is never due again.
    fn next(&mut self, now: Instant) -> Option<Next>;

    /// Describes the schedule for people.
    fn describe(&self) -> String;
}

/// What comes next in a schedule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// Until when to sleep.
    pub(super) at: Instant,
    /// Whether the work is due then. If not, the schedule is asked again.
    pub(super) due: bool,
    /// Which runs were left out, for people: the last one took too long, or the process was suspended.
    pub(super) missed: Option<String>,
}

impl Task {
    /// Runs the task when the process starts, too.
    pub fn immediately(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// Shuts the process down if the task fails or panics: [`Bus::run`] drains and returns the error.
    /// Background tasks always do. A failure of a scheduled task is otherwise logged, and the task runs
    /// again when it is next due.
    pub fn shut_down_on_error(mut self) -> Self {
        self.shut_down = true;
        self
    }

    /// Sets how long one run of a scheduled task may take. A run that exceeds it is dropped at the await
    /// it is suspended in, which is a failure like any other. There is no limit by default, and a run of
    /// more than five minutes is reported as [`Stuck`](crate::health::Condition::Stuck): set a limit for
    /// runs that take longer by design. Code that blocks its thread cannot be cut off.
    ///
    /// Awaiting fails with [`Config`](ErrorKind::Config) for a background task, which may take any time.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(limit);
        self
    }

    fn add(self) -> Result<()> {
        let inner = Arc::clone(self.bus.inner());
        let work = self.work?;
        if matches!((&work, self.timeout), (Work::Background(_), Some(_))) {
            return Err(Error::new(
                ErrorKind::Config,
                "a background task may take any time: it has no time limit",
            )
            .hint("Limit what it does with `tokio::time::timeout` within it"));
        }
        inner.ensure_taking()?;
        let mut state = inner.state();
        if state.tasks.contains_key(&self.name) {
            return Err(Error::new(
                ErrorKind::Config,
                "this process already has a task of this name",
            ));
        }
        if !inner.features.tasks {
            tracing::info!(task = %self.name, "the feature `tasks` is off: the task is not started");
            return Ok(());
        }
        state.tasks.insert(Name::clone(&self.name), work.describe(&self.name));
        let progress = Progress::task(&self.name);
        if let Some(limit) = self.timeout {
            progress.limit(Some(limit));
        }
        state.progress.push(Arc::clone(&progress));
        let added = Added {
            name: self.name,
            work,
            at_once: self.at_once,
            shut_down: self.shut_down,
            timeout: self.timeout,
            progress,
        };
        let work = added.run(Arc::downgrade(&inner), inner.watch());
        if state.runs {
            state.consumers.spawn(work);
        } else {
            state.waiting.push(Box::pin(work));
        }
        Ok(())
    }
}

impl Added {
    /// Runs the task until the bus drains.
    async fn run(self, inner: Weak<Inner>, phase: watch::Receiver<Phase>) {
        let Self { name, work, at_once, shut_down, timeout, progress } = self;
        let task = RunningTask { name, inner, timeout, progress };
        match work {
            Work::Repeated(schedule, job) => {
                task.repeat(schedule, job, phase, at_once, shut_down).await
            }
            Work::Background(once) => task.background(once, phase).await,
        }
    }
}

/// A task that has been started.
struct RunningTask {
    name: Name,
    inner: Weak<Inner>,
    /// How long a run may take.
    timeout: Option<Duration>,
    progress: Arc<Progress>,
}

impl RunningTask {
    /// Logs a failure, and shuts the process down if asked to.
    fn failed(&self, reason: String, shut_down: bool) {
        tracing::error!(task = %self.name, reason, "a task failed");
        self.progress.failed(&reason);
        if let (true, Some(inner)) = (shut_down, self.inner.upgrade()) {
            let error = Error::new(ErrorKind::Unexpected, reason);
            inner.fail(error.during(format!("running the task {}", self.name)));
        }
    }
}

impl Bus {
    fn task(&self, name: &str, work: Result<Work>) -> Task {
        let work = match name.is_empty() {
            true => Err(Error::new(ErrorKind::Config, "a task needs a name")),
            false => work,
        };
        Task {
            bus: self.clone(),
            name: name.into(),
            work,
            at_once: false,
            shut_down: false,
            timeout: None,
        }
    }
}

fn job<F, Fut>(work: F) -> Job
where
    F: Fn(Bus) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = HandlerResult> + Send + 'static,
{
    Arc::new(move |bus| Box::pin(work(bus)))
}

impl IntoFuture for Task {
    type Output = Result<()>;
    type IntoFuture = std::future::Ready<Result<()>>;

    fn into_future(self) -> Self::IntoFuture {
        let name = Name::clone(&self.name);
        std::future::ready(
            self.add().map_err(|error| error.during(format!("adding the task `{name}`"))),
        )
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.name).finish_non_exhaustive()
    }
}
