//! Tasks by cron patterns.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, Local, TimeDelta, Utc};
use croner::Cron;
use lightbus_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::{Schedule, Task, Work, job};
use crate::bus::shared::{Bus, HandlerResult};

/// The clock is read at least this often: it may be set, and a machine may sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A cron pattern, in UTC or the machine's time zone.
struct Calendar {
    pattern: Cron,
    local: bool,
    clock: Clock,
    due: Option<DateTime<Utc>>,
    /// Whether `due` has passed.
    past: bool,
}

/// The wall clock. In a test whose time is paused, it advances with tokio's time.
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
        // Skips what became due while it ran. A sleep may end slightly before the wall clock's time;
        // `past` keeps that from running the task twice.
        if self.past || due <= date {
            due = self.after(date.max(due))?;
            self.due = Some(due);
            self.past = false;
        }
        let wait = (due - date).to_std().unwrap_or_default();
        if wait > LONGEST_SLEEP {
            return Some((now + LONGEST_SLEEP, false));
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
        Error::new(ErrorKind::Config, format!("`{pattern}` is not a cron pattern: {error}")).hint(
            "Write minute, hour, day of the month, month, day of the week, as in `30 1 * * MON`",
        )
    })
}

impl Bus {
    /// Adds a task that runs whenever the time in UTC matches a cron pattern: `30 1 * * MON` is Mondays
    /// at 01:30. The pattern has five fields (minute, hour, day of the month, month, day of the week),
    /// or six with seconds first. As with [`every`](Self::every), runs never overlap, and missed runs
    /// are skipped.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the pattern is invalid, or if this process already has a task of
    /// this name.
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

    /// Adds a task that runs whenever the machine's local time matches a cron pattern. Runs that are due
    /// in the hour skipped by daylight saving time happen right after it. See [`cron`](Self::cron).
    ///
    /// # Errors
    ///
    /// See [`cron`](Self::cron).
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

    /// Whether this process is part of a test, whose time may be paused.
    fn keeps_test_time(&self) -> bool {
        #[cfg(feature = "testing")]
        return self.inner().test.is_some();
        #[cfg(not(feature = "testing"))]
        false
    }
}
