//! Tasks by cron patterns.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, Local, TimeDelta, Utc};
use croner::Cron;
use lightbus_core::{Error, ErrorKind, Result, time::after};
use tokio::time::Instant;

use super::{Next, Schedule, Task, Work, job, zone};
use crate::bus::shared::{Bus, HandlerResult};

/// The clock is read at least this often: it may be set, and a machine may sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// A clock that is set back by at most this much was corrected: what has run does not run again. As
/// cron does it.
const CORRECTION: TimeDelta = TimeDelta::hours(3);

/// A cron pattern, in UTC or the machine's time zone.
struct Calendar {
    pattern: Cron,
    local: bool,
    clock: Clock,
    due: Option<DateTime<Utc>>,
    /// Whether the work was begun, or will be, when `due` has come.
    past: bool,
    /// What it was due at when it ran last.
    ran: Option<DateTime<Utc>>,
    /// The date when it was asked last.
    seen: DateTime<Utc>,
}

/// The wall clock. In a test whose time is paused, it advances with tokio's time.
type Clock = Box<dyn Fn(Instant) -> DateTime<Utc> + Send + Sync>;

fn clock(test_began: Option<(Instant, DateTime<Utc>)>) -> Clock {
    Box::new(move |now| match test_began {
        Some((began, date)) => {
            let passed = TimeDelta::from_std(now.duration_since(began)).ok();
            passed.and_then(|passed| date.checked_add_signed(passed)).unwrap_or(date)
        }
        None => Utc::now(),
    })
}

impl Calendar {
    fn new(pattern: Cron, local: bool, clock: Clock) -> Self {
        let seen = DateTime::UNIX_EPOCH;
        Self { pattern, local, clock, due: None, past: false, ran: None, seen }
    }

    fn after(&self, date: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if self.local {
            return zone::next(&self.pattern, &Local, date);
        }
        self.pattern.find_next_occurrence(&date, false).ok()
    }

    /// From when on to look: from now on, or from the last run on if the clock has not come so far.
    fn from(&self, date: DateTime<Utc>) -> DateTime<Utc> {
        let is_near = |ran: &DateTime<Utc>| ran.signed_duration_since(date) <= CORRECTION;
        self.ran.filter(is_near).map_or(date, |ran| ran.max(date))
    }
}

impl Schedule for Calendar {
    fn start(&mut self, now: Instant) {
        let date = (self.clock)(now);
        self.seen = date;
        self.due = self.after(date);
    }

    fn next(&mut self, now: Instant) -> Option<Next> {
        let date = (self.clock)(now);
        let mut due = self.due?;
        let set_back = date < std::mem::replace(&mut self.seen, date);
        let mut missed = None;
        if std::mem::take(&mut self.past) {
            self.ran = Some(due);
            // A sleep may end slightly before the wall clock's time. Counted from what it was due at, so
            // that it does not run twice.
            missed = self.after(due).filter(|next| *next <= date);
            due = self.after(self.from(date))?;
        } else if due <= date {
            missed = Some(due);
            due = self.after(self.from(date))?;
        } else if set_back {
            // It may have been set to another year for a moment.
            due = self.after(self.from(date))?;
        }
        self.due = Some(due);
        let wait = due.signed_duration_since(date).to_std().unwrap_or_default();
        self.past = wait <= LONGEST_SLEEP;
        Some(Next {
            at: after(now, wait.min(LONGEST_SLEEP)),
            due: self.past,
            missed: missed.map(|missed| format!("due at {}", missed.format("%F %T UTC"))),
        })
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
    /// are skipped and logged. If the clock is set back by up to three hours, nothing runs twice.
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

    /// Adds a task that runs whenever the machine's local time matches a cron pattern. See
    /// [`cron`](Self::cron).
    ///
    /// When clocks change, a pattern with one time of the day (`30 2 * * *`) runs once: right after the
    /// hour that is skipped, or in the first of the two hours. Every other pattern (`*/10 * * * *`) runs
    /// whenever it matches, in both hours, and not in one that is skipped.
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
        let clock = clock(self.keeps_test_time().then(|| (Instant::now(), Utc::now())));
        let work = parse(pattern).map(|pattern| {
            Work::Repeated(Box::new(Calendar::new(pattern, local, clock)), job(work))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A calendar with a clock that is set by hand.
    fn set_up(pattern: &str, date: &str) -> (Calendar, impl Fn(&str)) {
        let parsed = |date: &str| date.parse::<DateTime<Utc>>().unwrap();
        let date = Arc::new(Mutex::new(parsed(date)));
        let read = Arc::clone(&date);
        let clock = Box::new(move |_| *read.lock().unwrap());
        let mut calendar = Calendar::new(parse(pattern).unwrap(), false, clock);
        calendar.start(Instant::now());
        (calendar, move |to: &str| *date.lock().unwrap() = parsed(to))
    }

    /// Seconds until the next run, or `None` if it only sleeps; and what was missed.
    fn ask(calendar: &mut Calendar) -> (Option<u64>, Option<String>) {
        let now = Instant::now();
        let next = calendar.next(now).unwrap();
        (next.due.then(|| (next.at - now).as_secs()), next.missed)
    }

    #[test]
    fn it_goes_on_after_the_clock_was_in_another_year_for_a_moment() {
        let (mut calendar, set) = set_up("*/10 * * * *", "2026-03-01T12:03:00Z");
        assert_eq!(ask(&mut calendar), (None, None));
        set("2036-01-01T00:00:01Z");
        assert_eq!(ask(&mut calendar), (None, Some("due at 2026-03-01 12:10:00 UTC".into())));
        set("2026-03-01T12:04:00Z");
        assert_eq!(ask(&mut calendar), (None, None));
        set("2026-03-01T12:09:50Z");
        assert_eq!(ask(&mut calendar), (Some(10), None));
        // Also if it ran then.
        let (mut calendar, set) = set_up("* * * * *", "2036-01-01T00:00:50Z");
        assert_eq!(ask(&mut calendar), (Some(10), None));
        set("2026-03-01T12:03:40Z");
        assert_eq!(ask(&mut calendar), (Some(20), None));
    }

    #[test]
    fn a_clock_that_is_corrected_runs_nothing_twice() {
        let (mut calendar, set) = set_up("0 12 * * *", "2026-03-01T11:59:50Z");
        assert_eq!(ask(&mut calendar), (Some(10), None));
        // The sleep ended early.
        set("2026-03-01T11:59:59.990Z");
        assert_eq!(ask(&mut calendar), (None, None));
        set("2026-03-01T11:58:50Z");
        assert_eq!(ask(&mut calendar), (None, None));
        set("2026-03-01T11:59:50Z");
        assert_eq!(ask(&mut calendar), (None, None), "it has run");
        set("2026-03-02T11:59:50Z");
        assert_eq!(ask(&mut calendar), (Some(10), None));
    }

    #[test]
    fn what_was_missed_is_said() {
        let (mut calendar, set) = set_up("0 * * * *", "2026-03-01T11:59:50Z");
        assert_eq!(ask(&mut calendar), (Some(10), None));
        // The run took two hours, or the process was suspended.
        set("2026-03-01T14:30:00Z");
        assert_eq!(ask(&mut calendar), (None, Some("due at 2026-03-01 13:00:00 UTC".into())));
        set("2026-03-01T17:00:00Z");
        assert_eq!(ask(&mut calendar), (None, Some("due at 2026-03-01 15:00:00 UTC".into())));
    }
}
