//! Periodic tasks.

use std::time::Duration;

use lightbus_core::{Error, ErrorKind};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{Job, Next, RunningTask, Schedule, Task, Work, job};
use crate::bus::shared::{Bus, HandlerResult, Phase, catch_panic, cut_off, drained};

/// A fixed period.
struct Every {
    period: Duration,
    due: Option<Instant>,
}

impl Schedule for Every {
    fn start(&mut self, now: Instant) {
        self.due = Some(now);
    }

    fn next(&mut self, now: Instant) -> Option<Next> {
        let mut due = self.due.unwrap_or(now).checked_add(self.period)?;
        let mut missed = None;
        if due <= now {
            // It took longer than its period: skip the missed runs, keep the phase.
            let late = now.duration_since(due).as_nanos() / self.period.as_nanos().max(1);
            let skipped = u32::try_from(late).unwrap_or(u32::MAX).saturating_add(1);
            due = due.checked_add(self.period.checked_mul(skipped)?)?;
            missed = Some(format!("{skipped} runs"));
        }
        self.due = Some(due);
        Some(Next { at: due, due: true, missed })
    }

    fn describe(&self) -> String {
        format!("every {:?}", self.period)
    }
}

impl Bus {
    /// Adds a task that runs once per `period` while the process [runs](Self::run), for the first time
    /// after one period. The period is measured from start to start. Runs never overlap; those that
    /// would start while one is still running are skipped.
    ///
    /// A failure or a panic is logged, and the task runs again when it is next due. Python ends the
    /// process instead; [`shut_down_on_error`](Task::shut_down_on_error) does that here.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the period is zero, or if this process already has a task of
    /// this name.
    ///
    /// # Cancel safety
    ///
    /// When the bus drains, a run in progress may finish. One that exceeds
    /// [`drain_timeout`](crate::BusBuilder::drain_timeout) is dropped.
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # use std::time::Duration;
    /// # async fn example(bus: &Bus) -> lightbus::Result<()> {
    /// bus.every("tidy", Duration::from_secs(60), |bus| async move {
    ///     let removed: u64 = bus.call("store.remove_old", args! { days: 30 }).await?;
    ///     println!("{removed} removed");
    ///     Ok(())
    /// })
    /// .immediately()
    /// .await
    /// # }
    /// ```
    pub fn every<F, Fut>(&self, name: &str, period: Duration, work: F) -> Task
    where
        F: Fn(Bus) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let work = match period.is_zero() {
            true => Err(Error::new(ErrorKind::Config, "the period must not be zero")),
            false => Ok(Work::Repeated(Box::new(Every { period, due: None }), job(work))),
        };
        self.task(name, work)
    }
}

impl RunningTask {
    pub(super) async fn repeat(
        self,
        mut schedule: Box<dyn Schedule>,
        job: Job,
        mut phase: watch::Receiver<Phase>,
        at_once: bool,
        shut_down: bool,
    ) {
        schedule.start(Instant::now());
        let mut due = at_once;
        loop {
            if due {
                let Some(inner) = self.inner.upgrade() else { return };
                let bus = Bus { inner };
                let begun = self.progress.began();
                // Dropping the run may panic too.
                let run = catch_panic(async {
                    let Some(limit) = self.timeout else { return job(bus).await };
                    timeout(limit, job(bus)).await.unwrap_or_else(|_| {
                        Err(format!("it did not return within {limit:?}").into())
                    })
                });
                let done = tokio::select! {
                    biased;
                    done = run => done,
                    () = cut_off(&mut phase) => return,
                };
                drop(begun);
                match done {
                    Ok(Ok(())) => self.progress.succeeded(),
                    Ok(Err(error)) => self.failed(error.reason(), shut_down),
                    Err(panic) => self.failed(format!("it panicked: {panic}"), shut_down),
                }
            }
            let Some(next) = schedule.next(Instant::now()) else {
                tracing::info!(task = %self.name, "the task will not be due again");
                return;
            };
            if let Some(missed) = next.missed {
                tracing::warn!(
                    task = %self.name, missed,
                    "a task was not run when it was due: its last run took too long, or the process was suspended"
                );
            }
            tokio::select! {
                biased;
                () = drained(&mut phase) => return,
                () = sleep_until(next.at) => due = next.due,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beat_stays_and_what_was_missed_is_left_out() {
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut every = Every { period: second, due: None };
        every.start(begin);
        let next = |seconds: u32, missed: Option<&str>| {
            let missed = missed.map(str::to_owned);
            Some(Next { at: begin + seconds * second, due: true, missed })
        };
        assert_eq!(every.next(begin), next(1, None));
        assert_eq!(every.next(begin + second.mul_f64(1.5)), next(2, None));
        assert_eq!(every.next(begin + second.mul_f64(5.5)), next(6, Some("3 runs")));
        assert_eq!(every.next(begin + 7 * second), next(8, Some("1 runs")));
    }
}
