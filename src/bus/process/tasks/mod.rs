//! What a process does on its own, without being called: again and again, or all the time.

mod background;
#[cfg(feature = "cron")]
mod cron;
mod repeat;

use std::{
    fmt,
    future::IntoFuture,
    sync::{Arc, Weak},
};

use futures_util::future::BoxFuture;
use lightbus_core::{Error, ErrorKind, Name, Result};
use tokio::{sync::watch, time::Instant};

use crate::bus::shared::{Bus, HandlerResult, Inner, Phase, Progress};

/// Work that can be begun again and again.
type Job = Arc<dyn Fn(Bus) -> BoxFuture<'static, HandlerResult> + Send + Sync>;
/// Work that is begun once.
type Once = Box<dyn FnOnce(Bus) -> BoxFuture<'static, HandlerResult> + Send>;

/// A task that is about to be added to a process: await it.
///
/// Tasks start when [`Bus::run`] begins, after the [`on_start`](Bus::on_start) hooks; one that is added
/// later starts at once. Each process of a service does its tasks: nothing elects one of them.
#[must_use = "a task is added when this is awaited"]
pub struct Task {
    bus: Bus,
    name: Name,
    work: Result<Work>,
    at_once: bool,
    shut_down: bool,
}

/// A task that has been added.
struct Added {
    name: Name,
    work: Work,
    at_once: bool,
    shut_down: bool,
    progress: Arc<Progress>,
}

enum Work {
    Repeated(Box<dyn Schedule>, Job),
    Background(Once),
}

impl Work {
    /// In words, for people.
    fn describe(&self, name: &str) -> String {
        match self {
            Self::Repeated(schedule, _) => format!("{name} {}", schedule.describe()),
            Self::Background(_) => format!("{name} in the background"),
        }
    }
}

/// When repeated work is due.
pub(super) trait Schedule: Send + Sync {
    /// Forgets when it was due before: the task starts now.
    fn start(&mut self, now: Instant);

    /// The next moment after `now` at which to look, and whether the work is due then. `None`: never
    /// again.
    fn next(&mut self, now: Instant) -> Option<(Instant, bool)>;

    /// In words, for people.
    fn describe(&self) -> String;
}

impl Task {
    /// Does it when the process starts as well, and then as scheduled.
    pub fn immediately(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// Ends the process when it fails or panics: [`Bus::run`] drains and gives the error. Background
    /// tasks do so anyway. Scheduled ones are otherwise logged and done again when they are due next.
    pub fn shut_down_on_error(mut self) -> Self {
        self.shut_down = true;
        self
    }

    fn add(self) -> Result<()> {
        let inner = Arc::clone(self.bus.inner());
        let work = self.work?;
        inner.ensure_taking()?;
        let mut state = inner.state();
        if state.tasks.contains_key(&self.name) {
            return Err(Error::new(
                ErrorKind::Config,
                "this process has a task of this name already",
            ));
        }
        if !inner.features.tasks {
            tracing::info!(task = %self.name, "the feature `tasks` is off: the task is left out");
            return Ok(());
        }
        state.tasks.insert(Name::clone(&self.name), work.describe(&self.name));
        let progress = Progress::task(&self.name);
        state.progress.push(Arc::clone(&progress));
        let added = Added {
            name: self.name,
            work,
            at_once: self.at_once,
            shut_down: self.shut_down,
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
    /// Works until the bus drains.
    async fn run(self, inner: Weak<Inner>, phase: watch::Receiver<Phase>) {
        let Self { name, work, at_once, shut_down, progress } = self;
        let task = RunningTask { name, inner, progress };
        match work {
            Work::Repeated(schedule, job) => {
                task.repeat(schedule, job, phase, at_once, shut_down).await
            }
            Work::Background(once) => task.background(once, phase).await,
        }
    }
}

/// A task at work.
struct RunningTask {
    name: Name,
    inner: Weak<Inner>,
    progress: Arc<Progress>,
}

impl RunningTask {
    /// Logs a failure; ends the process if that is what it means.
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
        Task { bus: self.clone(), name: name.into(), work, at_once: false, shut_down: false }
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
