//! The closed loop: callers that call again as soon as they have their answer.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::cpu::{Processes, Usage};
use crate::record::{CpuPerOp, Label, Measurement, rounded};
use crate::{Error, Result};

/// One of the callers of a closed loop, with whatever it keeps from call to call.
pub trait Caller: Send + 'static {
    /// Calls once and waits for the answer; says how many operations that was, 1 unless a call
    /// is a batch. An error ends the measurement.
    fn call(&mut self) -> impl Future<Output = Result<u64>> + Send;
}

/// How long to call.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Time in which calls are made and not counted.
    pub warmup: Duration,
    /// Time that is measured, after the warm-up.
    pub duration: Duration,
}

impl Load {
    /// The interval to measure if calling begins now.
    pub fn window(&self) -> Window {
        let start = Instant::now() + self.warmup;
        Window { start, end: start + self.duration }
    }
}

/// What came out.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Operations that ended within the time measured.
    pub operations: u64,
    /// The time measured.
    pub duration: Duration,
    /// How long the calls took, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// CPU time for an operation.
    pub cpu: CpuPerOp,
    /// Cores that other processes kept busy.
    pub other_cores: Option<f64>,
}

impl Outcome {
    /// Operations in a second.
    pub fn ops_per_s(&self) -> f64 {
        self.operations as f64 / self.duration.as_secs_f64()
    }

    /// The record of this outcome.
    pub fn measurement(&self, label: Label) -> Measurement {
        let quantile_us =
            |quantile| rounded(self.latencies.value_at_quantile(quantile) as f64 / 1e3);
        Measurement {
            name: label.name,
            callers: label.callers,
            bytes: label.bytes,
            ops_per_s: rounded(self.ops_per_s()),
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            cpu_us_per_op: self.cpu,
            other_cores: self.other_cores,
            connections: None,
            threads: label.threads,
            seconds: rounded(self.duration.as_secs_f64()),
            round: label.round,
        }
    }
}

/// Lets all callers call, each in a task of its own, and measures.
///
/// Fails with the first error of a caller, and if a call has no answer long after the end: a lost
/// call must not pass for a slow one.
pub async fn closed_loop<C: Caller>(
    callers: Vec<C>,
    load: Load,
    processes: Processes,
) -> Result<Outcome> {
    let run = Run::start(load, processes)?;
    let mut tasks = JoinSet::new();
    for caller in callers {
        tasks.spawn(call_until_end(caller, run.window, run.latencies.clone()));
    }
    run.outcome(tasks).await
}

/// Like [`closed_loop`], but with all callers in one task, so that no two run at the same moment.
///
/// On a multi-threaded runtime this makes a difference to what they share. A task that is woken by
/// another runs right after it, ahead of those that wait already: with a task for each caller, a
/// connection's task runs after nearly every call and writes it alone; here it finds the calls of
/// all callers and writes them together.
pub async fn closed_loop_in_one_task<C: Caller>(
    callers: Vec<C>,
    load: Load,
    processes: Processes,
) -> Result<Outcome> {
    let run = Run::start(load, processes)?;
    let mut callers: FuturesUnordered<_> = callers
        .into_iter()
        .map(|caller| call_until_end(caller, run.window, run.latencies.clone()))
        .collect();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut operations = 0;
        while let Some(counted) = callers.next().await {
            operations += counted?;
        }
        Ok(operations)
    });
    run.outcome(tasks).await
}

/// A closed loop under way.
struct Run {
    window: Window,
    latencies: Latencies,
    meter: Meter,
}

impl Run {
    fn start(load: Load, processes: Processes) -> Result<Self> {
        let window = load.window();
        let meter = Meter::start(window, processes)?;
        Ok(Self { window, latencies: Latencies::new()?, meter })
    }

    /// Waits for the tasks that call and count operations.
    async fn outcome(self, mut tasks: JoinSet<Result<u64>>) -> Result<Outcome> {
        let operations = total(&mut tasks, self.window.end + GRACE).await?;
        self.meter.outcome(operations, self.latencies)
    }
}

/// How long after the end the last answers may come.
const GRACE: Duration = Duration::from_secs(15);

/// The operations of all tasks together, once they are done.
async fn total(tasks: &mut JoinSet<Result<u64>>, deadline: Instant) -> Result<u64> {
    let mut operations = 0;
    loop {
        match tokio::time::timeout_at(deadline.into(), tasks.join_next()).await {
            Ok(Some(counted)) => operations += counted??,
            Ok(None) => return Ok(operations),
            Err(_) => {
                return Err(format!("no answers to the last calls of {} tasks", tasks.len()).into());
            }
        }
    }
}

async fn call_until_end(
    mut caller: impl Caller,
    window: Window,
    latencies: Latencies,
) -> Result<u64> {
    let mut samples = Samples::new(latencies);
    let mut operations = 0;
    // One reading of the clock for each call: its end is the beginning of the next.
    let mut began = Instant::now();
    loop {
        let done = caller.call().await?;
        let ended = Instant::now();
        if ended >= window.end {
            return Ok(operations);
        }
        if ended >= window.start {
            operations += done;
            samples.push(ended - began);
        }
        began = ended;
    }
}

/// The interval that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// When what counts begins.
    pub start: Instant,
    /// When it ends.
    pub end: Instant,
}

/// Takes CPU times at the window's start and end, in a thread of its own: a busy runtime would be
/// late.
#[derive(Debug)]
pub struct Meter {
    window: Window,
    readings: thread::JoinHandle<(Usage, Usage)>,
}

impl Meter {
    /// Begins to wait for the window.
    pub fn start(window: Window, processes: Processes) -> Result<Self> {
        let read_at = move |moment: Instant| {
            thread::sleep(moment.saturating_duration_since(Instant::now()));
            processes.usage()
        };
        let readings = thread::Builder::new()
            .name("cpu-meter".into())
            .spawn(move || (read_at(window.start), read_at(window.end)))?;
        Ok(Self { window, readings })
    }

    /// What was measured. To be called after the window's end, as it waits for it.
    pub fn outcome(self, operations: u64, latencies: Latencies) -> Result<Outcome> {
        let (before, after) = self.readings.join().map_err(|_| Error::from("no CPU times"))?;
        let mut outcome = Outcome {
            operations,
            duration: self.window.end - self.window.start,
            latencies: latencies.take()?,
            cpu: CpuPerOp::default(),
            other_cores: after.other_cores_since(&before),
        };
        outcome.cpu = after.per_op_since(&before, outcome.ops_per_s());
        Ok(outcome)
    }
}

/// The latencies of all callers. One histogram, as one for each of 256 callers would push what is
/// measured out of the caches.
#[derive(Clone, Debug)]
pub struct Latencies(Arc<Mutex<Histogram<u64>>>);

impl Latencies {
    /// None yet.
    pub fn new() -> Result<Self> {
        let longest = Duration::from_secs(60).as_nanos() as u64;
        Ok(Self(Arc::new(Mutex::new(Histogram::new_with_bounds(1, longest, 3)?))))
    }

    fn record(&self, nanos: &[u64]) {
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for &nanos in nanos {
            histogram.saturating_record(nanos);
        }
    }

    /// The histogram, of which no caller has a part any more.
    pub fn take(self) -> Result<Histogram<u64>> {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(histogram.clone())
    }
}

/// A caller's latencies, handed on some at a time.
#[derive(Debug)]
pub struct Samples {
    nanos: Vec<u64>,
    latencies: Latencies,
}

impl Samples {
    const AT_A_TIME: usize = 64;

    /// Latencies that go there.
    pub fn new(latencies: Latencies) -> Self {
        Self { nanos: Vec::with_capacity(Self::AT_A_TIME), latencies }
    }

    /// Adds one. The last are handed on when this is dropped.
    pub fn push(&mut self, latency: Duration) {
        self.nanos.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        if self.nanos.len() == Self::AT_A_TIME {
            self.hand_on();
        }
    }

    fn hand_on(&mut self) {
        self.latencies.record(&self.nanos);
        self.nanos.clear();
    }
}

impl Drop for Samples {
    fn drop(&mut self) {
        self.hand_on();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Sleeper;

    impl Caller for Sleeper {
        async fn call(&mut self) -> Result<u64> {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(3)
        }
    }

    struct Failing;

    impl Caller for Failing {
        async fn call(&mut self) -> Result<u64> {
            Err("no".into())
        }
    }

    const SHORT: Load =
        Load { warmup: Duration::from_millis(20), duration: Duration::from_millis(200) };

    #[tokio::test]
    async fn counts_operations_and_times_calls() -> Result<()> {
        check(&closed_loop(vec![Sleeper, Sleeper], SHORT, Processes::of_client()).await?);
        Ok(())
    }

    #[tokio::test]
    async fn one_task_makes_all_calls() -> Result<()> {
        let sleepers = vec![Sleeper, Sleeper];
        check(&closed_loop_in_one_task(sleepers, SHORT, Processes::of_client()).await?);
        Ok(())
    }

    fn check(outcome: &Outcome) {
        let calls = outcome.latencies.len();
        assert_eq!(outcome.operations, calls * 3);
        assert!((10..=80).contains(&calls), "{calls} calls");
        assert!(outcome.latencies.min() >= 4_900_000, "{} ns", outcome.latencies.min());
    }

    #[tokio::test]
    async fn fails_with_a_caller() {
        let failed = closed_loop(vec![Failing], SHORT, Processes::of_client()).await;
        assert_eq!(failed.err().map(|error| error.to_string()), Some("no".into()));
    }
}
