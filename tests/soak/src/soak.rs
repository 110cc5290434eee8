//! The soak itself: fires, calls, kills, takes the dependency away, and waits until all is handled.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use fastrand::Rng;
use lightbus::{Bus, config::Config};

use crate::{
    Options, Result,
    child::CONCURRENCY,
    contract::{Kind, LISTENER, SERVICE, SoakClient, Work},
    fleet::Fleet,
    journal,
    plan::{self, Plan},
    report::{Report, Sample},
};

/// Processes of the listener; each is a worker too.
const PROCESSES: usize = 3;
/// So many keys: enough that a hash of them spreads evenly over partitions.
const KEYS: u64 = 4096;
/// How long what was fired may take to be handled at the end.
const TAIL: Duration = Duration::from_secs(300);
/// Between two looks at the fleet.
const TICK: Duration = Duration::from_millis(500);

pub(crate) async fn run(options: &Options) -> Result<ExitCode> {
    let seed = options.seed.unwrap_or_else(|| u64::from(std::process::id()));
    let plan = Plan::of(options);
    println!("soaking {} for {:?}, seed {seed}: {plan:?}", options.config, plan.length);
    std::fs::create_dir_all(&options.folder)?;
    let bus = Bus::builder()
        .config(Config::load([&*options.config])?)
        .service_name("soak-driver")
        .connect()
        .await?;
    bus.register(SoakClient::contract()).await?;
    let mut fleet = Fleet::start(options, PROCESSES)?;
    await_listeners(options, &mut fleet).await?;

    let began = Instant::now();
    let mut report = Report::new(plan, options.folder.clone(), PROCESSES);
    let firing = tokio::spawn(fire(bus.clone(), plan, options.rate, seed));
    let calling = tokio::spawn(call(bus.clone(), plan));
    watch(options, &plan, seed, &mut fleet, began, &mut report).await?;
    (report.fired, report.poison) = firing.await??;
    report.calls = calling.await?;

    let deadline = Instant::now() + TAIL;
    while report.missing(&letters(&bus).await?) > 0 && Instant::now() < deadline {
        fleet.supervise()?;
        tokio::time::sleep(TICK).await;
    }
    report.letters = letters(&bus).await?;
    report.starts = fleet.starts();
    drop(fleet);
    bus.close().await?;
    Ok(if report.print() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Waits until every child has said that it is healthy: then nothing fired is missed.
async fn await_listeners(options: &Options, fleet: &mut Fleet<'_>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while fleet.health(&options.folder).0 < fleet.len() {
        if Instant::now() >= deadline {
            return Err("the children never became healthy: see their logs".into());
        }
        fleet.supervise()?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Fires at a steady rate: one that fails is fired again under the same number until it is confirmed.
/// Returns how many were fired, and the number of the one that kills its process.
async fn fire(bus: Bus, plan: Plan, rate: f64, seed: u64) -> Result<(u64, Option<u64>)> {
    let mut rng = Rng::with_seed(seed);
    let mut beat = tokio::time::interval(Duration::from_secs_f64(1.0 / rate.clamp(0.1, 10_000.0)));
    let began = Instant::now();
    let mut poison = None;
    let mut number = 0;
    while began.elapsed() < plan.length {
        beat.tick().await;
        let mut kind = plan::kind(&mut rng);
        if poison.is_none() && began.elapsed() >= plan.poison {
            (poison, kind) = (Some(number), Kind::Poison);
        }
        let key = format!("key-{}", rng.u64(..KEYS));
        while let Err(error) = bus.fire(Work { number, key: key.clone(), kind }).await {
            println!("firing {number} failed, again: {error}");
            tokio::time::sleep(TICK).await;
        }
        number += 1;
    }
    Ok((number, poison))
}

/// Calls five times a second. A worker that is killed leaves a call without an answer.
async fn call(bus: Bus, plan: Plan) -> (u64, u64) {
    let client = SoakClient::new(&bus);
    let mut beat = tokio::time::interval(Duration::from_millis(200));
    let (began, mut answered, mut lost) = (Instant::now(), 0, 0);
    while began.elapsed() < plan.length {
        beat.tick().await;
        match client.double(answered).await {
            Ok(double) if double == answered * 2 => answered += 1,
            Ok(wrong) => println!("{answered} doubled is not {wrong}"),
            Err(_) => lost += 1,
        }
    }
    (answered, lost)
}

/// Kills, takes the dependency away, and looks at memory and health, until nothing is fired any more.
async fn watch(
    options: &Options,
    plan: &Plan,
    seed: u64,
    fleet: &mut Fleet<'_>,
    began: Instant,
    report: &mut Report,
) -> Result<()> {
    let mut rng = Rng::with_seed(seed ^ 0x5EED);
    let mut next_kill = plan.next_kill(&mut rng);
    let mut order: Vec<usize> = Vec::new();
    let outage = journal::outage(&options.folder);
    while began.elapsed() < plan.length {
        tokio::time::sleep(TICK).await;
        let now = began.elapsed();
        fleet.supervise()?;
        match (plan.is_outage(now), outage.exists()) {
            (true, false) => std::fs::write(&outage, "")?,
            (false, true) => std::fs::remove_file(&outage)?,
            _ => {}
        }
        if now >= next_kill && now < plan.last_kill {
            if order.is_empty() {
                order.extend(0..PROCESSES);
                rng.shuffle(&mut order);
            }
            // Each as often as the others: what a start costs is part of its share.
            fleet.kill(order.pop().unwrap_or(0))?;
            report.kills += 1;
            next_kill = now + plan.next_kill(&mut rng);
        }
        let (green, red) = fleet.health(&options.folder);
        report.samples.push(Sample { at: now, green, red, memory: fleet.memory() });
    }
    let _ = std::fs::remove_file(&outage);
    Ok(())
}

/// The dead letters of the listener: number and reason of each.
async fn letters(bus: &Bus) -> Result<Vec<(u64, String)>> {
    let letters = bus.admin().dead_letters(SERVICE, LISTENER, 10_000).await?;
    let number = |letter: &lightbus::DeadLetter| {
        let value = letter.event.fields.get("number")?;
        serde_json::from_slice(value).ok()
    };
    Ok(letters.iter().filter_map(|letter| Some((number(letter)?, letter.reason.clone()))).collect())
}

/// Deliveries that a SIGKILL may repeat: what was at work, and what was taken ahead of it.
pub(crate) fn most_repeated(kills: u64) -> u64 {
    kills * 16 * CONCURRENCY as u64
}
