//! `lightbus bench`: the speed of this bus, measured with an echo service and a listener of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future;
use hdrhistogram::Histogram;
use lightbus::Bus;
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    cli::{Bench, BenchKind},
    context::Context,
    failure::{Failure, code},
    output,
};

/// The longest latency that is recorded; a longer one counts as this.
const LONGEST: Duration = Duration::from_secs(60);

/// The API that is called, and whose events are fired.
#[lightbus::api(name = "lightbus_bench", events(Tick))]
trait Echo {
    /// Returns its argument.
    async fn echo(&self, text: String) -> String;
}

/// An event of the benchmark.
#[derive(Debug, lightbus::Event)]
struct Tick {
    text: String,
}

struct Service;

impl Echo for Service {
    async fn echo(&self, text: String) -> String {
        text
    }
}

pub(crate) async fn run(context: &Context, command: Bench) -> Result<(), Failure> {
    let server = context.builder().await?.service_name("lightbus-bench").connect().await?;
    let others = server.remote_apis().await?;
    if !command.shared && others.iter().any(|api| &**api != EchoClient::contract().name) {
        return Err(Failure::Failed(format!(
            "the bus is in use by {}: the benchmark and they would slow each other down. Use a \
             separate broker, or pass --shared",
            others.iter().map(|api| &**api).collect::<Vec<_>>().join(", ")
        )));
    }
    // On a bus in memory a second process would not be reached.
    let client = if server.require_shared().is_ok() {
        context.builder().await?.service_name("lightbus-bench").connect().await?
    } else {
        server.clone()
    };
    let outcome = match command.kind {
        BenchKind::Rpc => rpc(&server, &client, &command).await,
        BenchKind::Events => events(&server, &client, &command).await,
    };
    let (count, errors, took, latency) = outcome?;
    client.close().await?;
    server.close().await?;
    show(context, &command, count, errors, took, &latency)
}

type Outcome = (u64, u64, Duration, Histogram<u64>);

fn histogram() -> Result<Histogram<u64>, Failure> {
    let most = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
    Histogram::new_with_bounds(1, most, 3).map_err(|error| Failure::Failed(error.to_string()))
}

fn note(latency: &mut Histogram<u64>, took: Duration) {
    latency.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1));
}

async fn rpc(server: &Bus, client: &Bus, command: &Bench) -> Result<Outcome, Failure> {
    server.serve(EchoApi(Service)).await?;
    let text = "x".repeat(command.size);
    let echo = EchoClient::new(client);
    // One call first, to connect and to load schemas.
    echo.echo(text.clone()).await?;
    let end = Instant::now() + Duration::from_secs(command.seconds);
    let began = Instant::now();
    let callers = (0..command.callers).map(|_| {
        let (client, text) = (client.clone(), text.clone());
        tokio::spawn(async move {
            let (echo, mut latency, mut errors) = (EchoClient::new(&client), histogram()?, 0);
            while Instant::now() < end {
                let sent = Instant::now();
                match echo.echo(text.clone()).await {
                    Ok(_) => note(&mut latency, sent.elapsed()),
                    Err(error) if code(&error) == crate::failure::UNREACHABLE => {
                        return Err(Failure::Bus(error));
                    }
                    Err(_) => errors += 1,
                }
            }
            Ok::<_, Failure>((latency, errors))
        })
    });
    let done = future::join_all(callers).await;
    gather(done, began.elapsed())
}

async fn events(server: &Bus, client: &Bus, command: &Bench) -> Result<Outcome, Failure> {
    client.register(EchoClient::contract()).await?;
    let handled = Arc::new(AtomicU64::new(0));
    let (counts, rung) = (Arc::clone(&handled), Arc::new(Notify::new()));
    let rings = Arc::clone(&rung);
    server
        .listen("bench", move |_: Tick| {
            counts.fetch_add(1, Ordering::Relaxed);
            rings.notify_one();
            future::ready(Ok(()))
        })
        .await?;
    let text = "x".repeat(command.size);
    let stop = Arc::new(AtomicBool::new(false));
    let end = Instant::now() + Duration::from_secs(command.seconds);
    let began = Instant::now();
    let callers = (0..command.callers).map(|_| {
        let (client, text, stop) = (client.clone(), text.clone(), Arc::clone(&stop));
        tokio::spawn(async move {
            let (mut latency, mut errors) = (histogram()?, 0);
            while Instant::now() < end && !stop.load(Ordering::Relaxed) {
                let sent = Instant::now();
                match client.fire(Tick { text: text.clone() }).await {
                    Ok(_) => note(&mut latency, sent.elapsed()),
                    Err(error) if code(&error) == crate::failure::UNREACHABLE => {
                        stop.store(true, Ordering::Relaxed);
                        return Err(Failure::Bus(error));
                    }
                    Err(_) => errors += 1,
                }
            }
            Ok::<_, Failure>((latency, errors))
        })
    });
    let done = future::join_all(callers).await;
    let (fired, errors, _, latency) = gather(done, Duration::ZERO)?;
    // The measurement ends when every fired event is handled.
    let all = async {
        while handled.load(Ordering::Relaxed) < fired {
            rung.notified().await;
        }
    };
    tokio::time::timeout(LONGEST, all).await.map_err(|_| {
        let handled = handled.load(Ordering::Relaxed);
        Failure::Failed(format!("only {handled} of {fired} events were handled within {LONGEST:?}"))
    })?;
    Ok((fired, errors, began.elapsed(), latency))
}

type Joined = Result<Result<(Histogram<u64>, u64), Failure>, tokio::task::JoinError>;

fn gather(done: Vec<Joined>, took: Duration) -> Result<Outcome, Failure> {
    let (mut all, mut errors) = (histogram()?, 0);
    for one in done {
        let (latency, failed) = one.map_err(|error| Failure::Failed(error.to_string()))??;
        all.add(&latency).map_err(|error| Failure::Failed(error.to_string()))?;
        errors += failed;
    }
    Ok((all.len(), errors, took, all))
}

fn show(
    context: &Context,
    command: &Bench,
    count: u64,
    errors: u64,
    took: Duration,
    latency: &Histogram<u64>,
) -> Result<(), Failure> {
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = count as f64 / took.as_secs_f64().max(f64::EPSILON);
    let at = |quantile| latency.value_at_quantile(quantile);
    let (kind, unit) = match command.kind {
        BenchKind::Rpc => ("rpc", "calls"),
        BenchKind::Events => ("events", "events"),
    };
    if context.json {
        output::line(
            &json!({
                "kind": kind, "callers": command.callers, "size": command.size,
                "seconds": took.as_secs_f64(), "count": count, "errors": errors,
                "per_second": rate.round(),
                "latency_us": { "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": latency.max() },
            })
            .to_string(),
        )?;
    } else {
        let name = if kind == "rpc" { "until the result" } else { "until the broker confirmed" };
        output::line(&format!(
            "{count} {unit} in {:.1} s: {rate:.0} per second, {errors} failed ({} at once, {} bytes)",
            took.as_secs_f64(),
            command.callers,
            command.size
        ))?;
        output::line(&format!(
            "{name}: p50 {} µs, p90 {} µs, p99 {} µs, p99.9 {} µs, max {} µs",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            latency.max()
        ))?;
    }
    if errors > 0 { Err(Failure::Quiet(crate::failure::FAILED)) } else { Ok(()) }
}
