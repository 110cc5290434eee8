//! The time from firing to the handler, at a rate far below what is possible.
//!
//! The other process fires, each event with the time of day; this one listens. Both are on one
//! machine, so it is one clock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lightbus_bench_raw::driver::{Latencies, Meter, Samples};
use lightbus_bench_raw::{Load, Outcome, Peer, Result, payload, peer};
use tokio::time::MissedTickBehavior;

use crate::contract::{BenchClient, Stamped};
use crate::suite::Site;

const EVENTS_PER_SECOND: u32 = 200;

pub(crate) async fn measure(
    site: &Site,
    start_peer: impl FnOnce() -> Result<Peer>,
    load: Load,
) -> Result<Outcome> {
    let bus = site.bus().await?;
    let latencies = Latencies::new()?;
    // Nothing counts until the other process fires.
    let received = Arc::new(Mutex::new(Received {
        events: 0,
        window: None,
        samples: Samples::new(latencies.clone()),
    }));
    let receiving = Arc::clone(&received);
    bus.listen("latency", move |event: Stamped| {
        let (at, now) = (Instant::now(), nanos_of_day());
        let mut received = receiving.lock().unwrap_or_else(PoisonError::into_inner);
        if received.window.is_some_and(|(start, end)| at >= start && at < end) {
            received.events += 1;
            received.samples.push(Duration::from_nanos(now.saturating_sub(event.fired_at)));
        }
        std::future::ready(Ok(()))
    })
    .await?;
    let peer = start_peer()?;
    let window = load.window();
    let lock = || received.lock().unwrap_or_else(PoisonError::into_inner);
    lock().window = Some((window.start, window.end));
    let meter = Meter::start(window, site.beneath.processes(Some(&peer)))?;
    tokio::time::sleep_until(window.end.into()).await;
    bus.close().await?;
    let events = {
        let mut received = lock();
        received.samples = Samples::new(latencies.clone());
        received.events
    };
    if events == 0 {
        return Err("no event came".into());
    }
    meter.outcome(events, latencies)
}

struct Received {
    events: u64,
    window: Option<(Instant, Instant)>,
    samples: Samples,
}

/// Fires at a steady rate. This is the other process.
pub(crate) async fn fire(site: &Site) -> Result<()> {
    let bus = site.bus().await?;
    bus.register(BenchClient::contract()).await?;
    let text = payload::text(site.bytes);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    peer::ready();
    loop {
        ticks.tick().await;
        let payload = text.clone();
        bus.fire(Stamped { fired_at: nanos_of_day(), payload }).await?;
    }
}

fn nanos_of_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
