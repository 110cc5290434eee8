//! The time from firing to receipt, at a rate far below what is possible.
//!
//! The other process fires, each event with the time of day; this one consumes and looks at the
//! time again. Both are on one machine, so it is one clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value, cmd};
use tokio::time::MissedTickBehavior;

use super::consume::{entries, id_and_fields};
use super::{GROUP, STREAM, xadd, xreadgroup};
use crate::driver::{Latencies, Meter, Samples, Window};
use crate::suite::Site;
use crate::{Load, Outcome, Peer, Result, payload, peer};

const EVENTS_PER_SECOND: u32 = 200;

/// The argument that carries the time of firing, at the beginning of its value.
const ARGUMENT: &str = ":payload";

pub(crate) async fn measure(
    site: &Site,
    start_peer: impl FnOnce() -> Result<Peer>,
    load: Load,
) -> Result<Outcome> {
    let stream = site.key(STREAM);
    let mut connection = site.broker.connect_blocking().await?;
    let _: Value = cmd("XGROUP")
        .arg("CREATE")
        .arg(&stream)
        .arg(GROUP)
        .arg("$")
        .arg("MKSTREAM")
        .query_async(&mut connection)
        .await?;
    let peer = start_peer()?;
    let window = load.window();
    let latencies = Latencies::new()?;
    let meter = Meter::start(window, site.processes(Some(&peer)))?;
    // In a task, as the callers of the other measurements are.
    let received = tokio::spawn(receive_until_end(
        connection,
        stream,
        window,
        Samples::new(latencies.clone()),
    ))
    .await??;
    let outcome = meter.outcome(received, latencies);
    drop(peer);
    site.broker.delete(&[site.key(STREAM)]).await?;
    outcome
}

/// Receives events, and says how many came within the window.
async fn receive_until_end(
    mut connection: MultiplexedConnection,
    stream: String,
    window: Window,
    mut samples: Samples,
) -> Result<u64> {
    const COUNT: usize = 100;
    let mut received = 0;
    let mut unacknowledged: Vec<Vec<u8>> = Vec::new();
    loop {
        let mut pipeline = Pipeline::with_capacity(2);
        if !unacknowledged.is_empty() {
            pipeline.cmd("XACK").arg(&stream).arg(GROUP).arg(&unacknowledged);
        }
        pipeline.add_command(xreadgroup(&stream, COUNT));
        let answers: Value = pipeline.query_async(&mut connection).await?;
        let (at, time_of_day) = (Instant::now(), nanos_of_day());
        if at >= window.end {
            return Ok(received);
        }
        let Value::Array(mut answers) = answers else {
            return Err("not the answers to a pipeline".into());
        };
        unacknowledged.clear();
        for entry in entries(answers.pop())? {
            let (id, fields) = id_and_fields(entry)?;
            unacknowledged.push(id);
            if at >= window.start {
                received += 1;
                samples.push(Duration::from_nanos(time_of_day.saturating_sub(fired_at(&fields)?)));
            }
        }
    }
}

/// Fires at a steady rate. This is the other process.
pub(crate) async fn fire(site: &Site) -> Result<()> {
    let stream = site.key(STREAM);
    let rest = payload::text(site.bytes.saturating_sub(TIME_BYTES)).into_bytes();
    let mut connection = site.broker.connect().await?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    peer::ready();
    loop {
        ticks.tick().await;
        let mut value = nanos_of_day().to_be_bytes().to_vec();
        value.extend_from_slice(&rest);
        let _: Value = xadd(&stream, ARGUMENT, &value).query_async(&mut connection).await?;
    }
}

const TIME_BYTES: usize = size_of::<u64>();

/// When an event was fired: the beginning of its last field.
fn fired_at(fields: &[Value]) -> Result<u64> {
    match fields.last() {
        Some(Value::BulkString(value)) => {
            Ok(u64::from_be_bytes(*value.first_chunk().ok_or("an event without its time")?))
        }
        other => Err(format!("not an event's argument: {other:?}").into()),
    }
}

fn nanos_of_day() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}
