//! A listener with default settings that comes back to a backlog.
//!
//! It works the same on every broker: the listener is made known, goes away, events are fired, and
//! it comes back. Several such listeners take turns, each with a backlog of its own; the time
//! between, in which one comes and goes, is not counted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use lightbus::Bus;
use lightbus_bench_raw::cpu::Usage;
use lightbus_bench_raw::driver::{Latencies, Samples};
use lightbus_bench_raw::{CpuPerOp, Outcome, Processes, Result, payload};
use tokio::sync::Notify;

use crate::contract::{BenchClient, Changed};
use crate::suite::Site;

const LISTENER: &str = "listener";

/// How many listeners drain the backlog, one after the other.
const DRAINS: usize = 3;

/// Of a backlog, the part that is handled before measuring begins: a tenth.
const WARM_UP: usize = 10;

/// How long a listener may have nothing to do before it counts as stuck.
const STUCK: Duration = Duration::from_secs(15);

pub(crate) async fn measure(site: &Site) -> Result<Outcome> {
    for drain in 0..DRAINS {
        let bus = site.bus_of(&service(site, drain)).await?;
        bus.listen(LISTENER, |_: Changed| async { Ok(()) }).await?;
        bus.close().await?;
    }
    let events = fill(site).await?;
    let latencies = Latencies::new()?;
    let mut drains = Vec::new();
    for drain in 0..DRAINS {
        let bus = site.bus_of(&service(site, drain)).await?;
        let processes = site.beneath.processes(None);
        drains.push(self::drain(&bus, events, processes, &latencies).await?);
        bus.close().await?;
        site.forget(&service(site, drain), LISTENER).await?;
    }
    let duration = drains.iter().map(|drain| drain.duration).sum();
    // Of equally many events each, so that the mean of the drains is that of all events.
    let mean = |value: fn(&Drain) -> Option<f64>| {
        let values: Option<Vec<f64>> = drains.iter().map(value).collect();
        values.map(|values| (values.iter().sum::<f64>() / DRAINS as f64 * 100.0).round() / 100.0)
    };
    Ok(Outcome {
        operations: drains.iter().map(|drain| drain.events).sum(),
        duration,
        latencies: latencies.take()?,
        cpu: CpuPerOp {
            client: mean(|drain| drain.cpu.client),
            server: None,
            broker: mean(|drain| drain.cpu.broker),
        },
        other_cores: mean(|drain| drain.other_cores),
    })
}

fn service(site: &Site, drain: usize) -> String {
    format!("{}-{drain}", site.service)
}

/// Fires what the listeners are to handle, and says how many events that is.
async fn fill(site: &Site) -> Result<usize> {
    const MOST_EVENTS: usize = 100_000;
    const MOST_BYTES: usize = 64 << 20;
    const AT_ONCE: usize = 256;
    let events = (MOST_BYTES / site.bytes.max(1)).min(MOST_EVENTS);
    let bus = site.bus().await?;
    bus.register(BenchClient::contract()).await?;
    let text = payload::text(site.bytes);
    stream::iter(0..events)
        .map(|_| bus.fire(Changed { payload: text.clone() }))
        .buffer_unordered(AT_ONCE)
        .try_for_each(|_| std::future::ready(Ok(())))
        .await?;
    bus.close().await?;
    Ok(events)
}

/// What came of one backlog.
struct Drain {
    events: u64,
    duration: Duration,
    cpu: CpuPerOp,
    other_cores: Option<f64>,
}

async fn drain(
    bus: &Bus,
    events: usize,
    processes: Processes,
    latencies: &Latencies,
) -> Result<Drain> {
    let progress = Arc::new(Progress {
        processes,
        first: events / WARM_UP,
        last: events,
        state: Mutex::new(State {
            handled: 0,
            hundred: Instant::now(),
            samples: Samples::new(latencies.clone()),
            began: None,
            ended: None,
        }),
        done: Notify::new(),
    });
    let handling = Arc::clone(&progress);
    bus.listen(LISTENER, move |event: Changed| {
        std::hint::black_box(event);
        handling.handled();
        std::future::ready(Ok(()))
    })
    .await?;
    let mut seen = 0;
    let (began, ended) = loop {
        let waited = tokio::time::timeout(STUCK, progress.done.notified()).await;
        let state = progress.state();
        if let (Some(began), Some(ended)) = (state.began, state.ended) {
            break (began, ended);
        }
        if waited.is_err() && state.handled == seen {
            return Err(format!("{seen} of {events} events came").into());
        }
        seen = state.handled;
    };
    let (measured, duration) = ((progress.last - progress.first) as u64, ended.0 - began.0);
    let per_second = measured as f64 / duration.as_secs_f64();
    Ok(Drain {
        events: measured,
        duration,
        cpu: ended.1.per_op_since(&began.1, per_second),
        other_cores: ended.1.other_cores_since(&began.1),
    })
}

/// How far the listener is.
struct Progress {
    processes: Processes,
    /// With how many events handled measuring begins.
    first: usize,
    /// And with how many it ends.
    last: usize,
    state: Mutex<State>,
    done: Notify,
}

struct State {
    handled: usize,
    /// When the last hundred were done.
    hundred: Instant,
    /// The time that a hundred events take.
    samples: Samples,
    began: Option<(Instant, Usage)>,
    ended: Option<(Instant, Usage)>,
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handled(&self) {
        let mut state = self.state();
        state.handled += 1;
        if state.handled.is_multiple_of(100) {
            let now = Instant::now();
            if state.began.is_some() && state.ended.is_none() {
                let took = now - state.hundred;
                state.samples.push(took);
            }
            state.hundred = now;
        }
        if state.handled == self.first {
            state.began = Some((Instant::now(), self.processes.usage()));
        }
        if state.handled == self.last {
            state.ended = Some((Instant::now(), self.processes.usage()));
            self.done.notify_one();
        }
    }
}
