//! The bus within one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lightbus::Bus;
use lightbus_bench_raw::{Caller, Load, Outcome, Processes, Result, closed_loop, payload};
use tokio::sync::Notify;

use crate::contract::{BenchApi, BenchClient, Changed, Echo};
use crate::place::Place;
use crate::rpc::{self, Arguments};

const LISTENERS: usize = 10;

/// Events that a listener may be behind. The firer waits then: what the raw measurement has its
/// channels for.
const BEHIND: u64 = 256;

async fn bus() -> Result<Bus> {
    Ok(Place::default().bus("bench", false)?.connect().await?)
}

pub(crate) async fn measure_rpc(
    arguments: Arguments,
    callers: usize,
    bytes: usize,
    load: Load,
) -> Result<Outcome> {
    let bus = bus().await?;
    bus.serve(BenchApi(Echo)).await?;
    let run = |callers| closed_loop(callers, load, Processes::of_client());
    let outcome = rpc::call(&bus, arguments, callers, bytes, run).await?;
    bus.close().await?;
    Ok(outcome)
}

pub(crate) async fn measure_events(bytes: usize, load: Load) -> Result<Outcome> {
    let bus = bus().await?;
    bus.register(BenchClient::contract()).await?;
    let progress = Arc::new(Progress::default());
    for index in 0..LISTENERS {
        let progress = Arc::clone(&progress);
        bus.listen(&format!("listener-{index}"), move |event: Changed| {
            std::hint::black_box(event);
            progress.handled(index);
            std::future::ready(Ok(()))
        })
        .await?;
    }
    let payload = payload::text(bytes);
    let firer = Firer { bus: bus.clone(), payload, fired: 0, progress };
    let outcome = closed_loop(vec![firer], load, Processes::of_client()).await?;
    bus.close().await?;
    Ok(outcome)
}

/// How far the listeners are.
#[derive(Default)]
struct Progress {
    handled: [AtomicU64; LISTENERS],
    moved: Notify,
}

impl Progress {
    /// Tells the firer now and then: each time would cost more than the event.
    const TELLS_EACH: u64 = BEHIND / 4;

    fn handled(&self, listener: usize) {
        let handled = self.handled[listener].fetch_add(1, Ordering::Relaxed) + 1;
        if handled.is_multiple_of(Self::TELLS_EACH) {
            self.moved.notify_one();
        }
    }

    fn slowest(&self) -> u64 {
        self.handled.iter().map(|handled| handled.load(Ordering::Relaxed)).min().unwrap_or(0)
    }
}

struct Firer {
    bus: Bus,
    payload: String,
    fired: u64,
    progress: Arc<Progress>,
}

impl Caller for Firer {
    async fn call(&mut self) -> Result<u64> {
        while self.fired - self.progress.slowest() >= BEHIND {
            self.progress.moved.notified().await;
        }
        self.bus.fire(Changed { payload: self.payload.clone() }).await?;
        self.fired += 1;
        Ok(LISTENERS as u64)
    }
}
