//! Tasks by the calendar.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, Local, TimeDelta, Utc};
use croner::Cron;
use lightbus_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::{Schedule, Task, Work, job};
use crate::bus::shared::{Bus, HandlerResult};

/// The clock is looked at again at least this often: it may be set, and a machine may sleep.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// By a pattern, in UTC or the machine's time zone.
struct Calendar {
    pattern: Cron,
    local: bool,
    clock: Clock,
    due: Option<DateTime<Utc>>,
    /// Whether `due` has been waited for to its end.
    past: bool,
}

/// What the calendar says. In a test whose time is paused, it goes on with tokio's time.
struct Clock {
    began: Option<(Instant, DateTime<Utc>)>,
}

impl Clock {
    fn now(&self, now: Instant) -> DateTime<Utc> {
        match self.began {
            Some((began, date)) => {
                let passed = now.duration_since(began);
                TimeDelta::from_std(passed)
                    .ok()
                    .and_then(|passed| date.checked_add_signed(passed))
                    .unwrap_or(date)
            }
            None => Utc::now(),
        }
    }
}

impl Calendar {
    fn after(&self, date: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.local {
            let next =
                self.pattern.find_next_occurrence(&date.with_timezone(&Local), false).ok()?;
            return Some(next.with_timezone(&Utc));
        }
        self.pattern.find_next_occurrence(&date, false).ok()
    }
}

impl Schedule for Calendar {
    fn start(&mut self, now: Instant) {
        self.due = self.after(self.clock.now(now));
    }

    fn next(&mut self, now: Instant) -> Option<(Instant, bool)> {
        let date = self.clock.now(now);
        let mut due = self.due?;
        // What became due while it ran is left out. The wait may have ended a moment before the
        // calendar's: then it is not due once more.
        if self.past || due <= date {
            due = self.after(date.max(due))?;
            self.due = Some(due);
            self.past = false;
        }
        let wait = (due - date).to_std().unwrap_or_default();
        if wait > LOOK_AGAIN {
            return Some((now + LOOK_AGAIN, false));
        }
        self.past = true;
        Some((now + wait, true))
    }

    fn describe(&self) -> String {
        format!("at {}{}", self.pattern.pattern, if self.local { " local time" } else { " UTC" })
    }
}

fn parse(pattern: &str) -> Result<Cron> {
    Cron::from_str(pattern).map_err(|error| {
        Error::new(ErrorKind::Config, format!("`{pattern}` is no schedule: {error}")).hint(
            "Write minute, hour, day of the month, month, day of the week, as in `30 1 * * MON`",
        )
    })
}

impl Bus {
    /// Does something whenever the calendar fits a cron pattern, in UTC: `30 1 * * MON` is Mondays at
    /// 01:30. Five fields (minute, hour, day of the month, month, day of the week), or six with
    /// seconds first. Otherwise as [`every`](Self::every): it never overlaps with itself, and what was
    /// missed, because it took too long or the process was not running, is not made up for.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the pattern cannot be read, or this process has a task of this
    /// name.
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # async fn example(bus: &Bus) -> lightbus::Result<()> {
    /// bus.cron("report", "30 1 * * MON", |bus| async move {
    ///     bus.fire_event("reports.wanted", args! { period: "week" }).await?;
    ///     Ok(())
    /// })
    /// .await
    /// # }
    /// ```
    pub fn cron<F, Fut>(&self, name: &str, pattern: &str, work: F) -> Task
    where
        F: Fn(Bus) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.calendar(name, pattern, false, work)
    }

    /// As [`cron`](Self::cron), in the time zone of the machine. Where clocks are put forward, what
    /// would be due in the hour that is left out comes right after it.
    ///
    /// # Errors
    ///
    /// As [`cron`](Self::cron).
    pub fn cron_local<F, Fut>(&self, name: &str, pattern: &str, work: F) -> Task
    where
        F: Fn(Bus) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        self.calendar(name, pattern, true, work)
    }

    fn calendar<F, Fut>(&self, name: &str, pattern: &str, local: bool, work: F) -> Task
    where
        F: Fn(Bus) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let clock = Clock { began: self.keeps_test_time().then(|| (Instant::now(), Utc::now())) };
        let work = parse(pattern).map(|pattern| {
            Work::Repeated(
                Box::new(Calendar { pattern, local, clock, due: None, past: false }),
                job(work),
            )
        });
        self.task(name, work)
    }

    /// Whether the time of this process is a test's.
    fn keeps_test_time(&self) -> bool {
        #[cfg(feature = "testing")]
        return self.inner().test.is_some();
        #[cfg(not(feature = "testing"))]
        false
    }
}
