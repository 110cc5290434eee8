//! The life of a process: draining that no caller owns, set-up that is dropped half-way, signals before
//! and after, renewal of schemas. With time paused, but where threads or processes are needed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{
    ErrorKind,
    config::Config,
    health::{Condition, Life},
    prelude::*,
};
use lightbus_tests::scripted::{Act, Scripted};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};

const SECOND: Duration = Duration::from_secs(1);

#[lightbus::api(name = "clock", events(Struck))]
pub trait Clock {
    /// Waits so many seconds.
    async fn wait(&self, seconds: u64) -> u64;
}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Struck {
    pub hour: u64,
}

struct Service(Arc<Notify>);

impl Clock for Service {
    async fn wait(&self, seconds: u64) -> u64 {
        self.0.notify_one();
        sleep(Duration::from_secs(seconds)).await;
        seconds
    }
}

/// A bus that serves the clock and drains within a minute, and what tells that a call has begun.
async fn clock() -> (Bus, Arc<Notify>) {
    let bus = Bus::builder().config(Config::default()).drain_timeout(60 * SECOND);
    let bus = bus.connect().await.unwrap();
    let begun = Arc::new(Notify::new());
    bus.serve(ClockApi(Service(Arc::clone(&begun)))).await.unwrap();
    (bus, begun)
}

/// The APIs whose schemas are on the bus.
async fn live(bus: &Bus) -> Vec<String> {
    bus.remote_apis().await.unwrap().iter().map(|api| api.to_string()).collect()
}

fn call(bus: &Bus, seconds: u64) -> tokio::task::JoinHandle<lightbus::Result<u64>> {
    let bus = bus.clone();
    let limit = 100 * SECOND;
    tokio::spawn(async move { ClockClient::new(&bus).wait(seconds).timeout(limit).await })
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_dropped_stops_waiting_and_the_drain_goes_on() {
    let (bus, begun) = clock().await;
    let call = call(&bus, 10);
    begun.notified().await;
    let began = Instant::now();
    assert!(timeout(SECOND, bus.close()).await.is_err(), "the handler takes ten seconds");
    assert_eq!(bus.health().life, Life::Stopping);
    bus.close().await.unwrap();
    let took = began.elapsed();
    assert!(
        (9..=11).contains(&took.as_secs()),
        "the second did not wait for the handler: {took:?}"
    );
    assert_eq!(call.await.unwrap().unwrap(), 10);
    assert_eq!(bus.health().life, Life::Closed);
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_who_close_at_once_wait_for_one_drain() {
    let (bus, begun) = clock().await;
    let hooks = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&hooks);
    bus.on_stop(move |_| async move {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    let call = call(&bus, 10);
    begun.notified().await;
    let began = Instant::now();
    let running = tokio::spawn(bus.clone().run());
    bus.shut_down();
    let (first, second, run) = tokio::join!(bus.close(), bus.close(), running);
    first.and(second).and(run.unwrap()).unwrap();
    assert!(began.elapsed() >= 9 * SECOND, "one of them cut the call off");
    assert_eq!(call.await.unwrap().unwrap(), 10);
    assert_eq!(hooks.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_drain_is_told_to_all_who_close() {
    let bus = Bus::builder().config(Config::default()).drain_timeout(SECOND);
    let bus = bus.connect().await.unwrap();
    let (sender, mut begun) = mpsc::channel(1);
    bus.register(ClockClient::contract()).await.unwrap();
    bus.listen("hours", move |_: Struck| {
        let sender = sender.clone();
        async move {
            sender.send(()).await?;
            std::future::pending().await
        }
    })
    .await
    .unwrap();
    bus.fire(Struck { hour: 1 }).await.unwrap();
    begun.recv().await.unwrap();
    for _ in 0..2 {
        let error = bus.close().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert!(error.to_string().contains("listener hours (1)"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_does_not_hold_up_closing() {
    let bus = Bus::builder().config(Config::default()).drain_timeout(Duration::from_millis(200));
    let bus = bus.connect().await.unwrap();
    bus.register(ClockClient::contract()).await.unwrap();
    let (sender, mut begun) = mpsc::channel(1);
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = std::sync::Mutex::new(blocked);
    bus.listen("hours", move |_: Struck| {
        let _ = sender.try_send(());
        // Until the end of the test.
        let _ = blocked.lock().unwrap().recv();
        async { Ok(()) }
    })
    .await
    .unwrap();
    bus.fire(Struck { hour: 1 }).await.unwrap();
    begun.recv().await.unwrap();
    let began = Instant::now();
    let error = timeout(8 * SECOND, bus.close()).await.expect("within its limits").unwrap_err();
    assert!(began.elapsed() < 6 * SECOND, "{:?}", began.elapsed());
    assert!(error.to_string().contains("listener hours (1)"), "{error}");
    drop(release);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_being_restarted_does_not_hold_up_closing() {
    let scripted = Scripted::default();
    scripted.script.listen.will([Act::End, Act::Hang]);
    let bus = scripted.bus().await;
    bus.listen("hours", |_: Struck| async { Ok(()) }).await.unwrap();
    sleep(5 * SECOND).await;
    assert_eq!(scripted.script.listen.count(), 2);
    assert_eq!(bus.health().parts[0].condition, Condition::Restarting);
    let began = Instant::now();
    bus.close().await.unwrap();
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_does_not_close_is_told() {
    let scripted = Scripted::default();
    let bus = scripted.bus().await;
    scripted.script.close.will([Act::Hang]);
    let error = timeout(60 * SECOND, bus.close()).await.expect("it has a limit").unwrap_err();
    assert!(error.to_string().contains("a transport did not close in time"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_set_up_was_dropped_can_be_set_up_again() {
    let scripted = Scripted::default();
    scripted.script.listen.will([Act::Hang]);
    let bus = scripted.bus().await;
    bus.register(ClockClient::contract()).await.unwrap();
    let (heard, mut hours) = mpsc::channel(8);
    let listen = || {
        let heard = heard.clone();
        bus.listen("hours", move |event: Struck| {
            let heard = heard.clone();
            async move {
                heard.send(event.hour).await?;
                Ok(())
            }
        })
        .into_future()
    };
    assert!(timeout(SECOND, listen()).await.is_err());
    listen().await.unwrap();
    bus.fire(Struck { hour: 3 }).await.unwrap();
    assert_eq!(hours.recv().await, Some(3));
    assert_eq!(listen().await.unwrap_err().kind(), ErrorKind::Config, "now it is there");
    bus.close().await.unwrap();
    assert!(hours.try_recv().is_err(), "handled twice");
}

#[tokio::test(start_paused = true)]
async fn an_api_whose_serving_was_dropped_can_be_served_again() {
    let scripted = Scripted::default();
    scripted.script.serve.will([Act::Hang]);
    let bus = scripted.bus().await;
    let begun = Arc::new(Notify::new());
    let serve = || bus.serve(ClockApi(Service(Arc::clone(&begun)))).into_future();
    assert!(timeout(SECOND, serve()).await.is_err());
    assert!(!bus.summary().contains("serves   clock"), "{}", bus.summary());
    serve().await.unwrap();
    assert_eq!(ClockClient::new(&bus).wait(1).await.unwrap(), 1);
    assert_eq!(serve().await.unwrap_err().kind(), ErrorKind::Config, "now it is there");
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn registering_again_publishes_what_was_not_published() {
    let scripted = Scripted::default();
    let bus = scripted.bus().await;
    scripted.script.store.will([Act::Hang, Act::Fail]);
    let register = || bus.register(ClockClient::contract());
    assert!(timeout(SECOND, register()).await.is_err());
    assert!(bus.remote_apis().await.unwrap().is_empty());
    // Of two at once, neither says that it is registered before it is.
    let (first, second) = tokio::join!(register(), register());
    assert_eq!(first.unwrap_err().kind(), ErrorKind::Unavailable);
    second.unwrap();
    assert_eq!(live(&bus).await, ["clock"]);
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_panics_is_restarted_and_seen_in_health() {
    let scripted = Scripted::default();
    // The first ends; getting another panics in the midst of the consumer.
    scripted.script.listen.will([Act::End, Act::Panic]);
    let bus = scripted.bus().await;
    bus.register(ClockClient::contract()).await.unwrap();
    let (heard, mut hours) = mpsc::channel(8);
    bus.listen("hours", move |event: Struck| {
        let heard = heard.clone();
        async move {
            heard.send(event.hour).await?;
            Ok(())
        }
    })
    .await
    .unwrap();
    while scripted.script.listen.count() < 2 {
        sleep(SECOND / 100).await;
    }
    let part = &bus.health().parts[0];
    assert_eq!(part.condition, Condition::Restarting);
    assert!(part.last_error.as_deref().unwrap_or_default().contains("it panicked"), "{part:?}");
    assert!(!bus.health().healthy);

    bus.fire(Struck { hour: 4 }).await.unwrap();
    assert_eq!(timeout(60 * SECOND, hours.recv()).await.expect("restarted"), Some(4));
    let health = bus.health();
    assert!(health.healthy && health.parts[0].restarts == 2, "{health:?}");
    bus.close().await.unwrap();
}

/// Not a test by itself: the process that the next tests end.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn child_that_ran() {
    let Ok(what) = std::env::var("LIGHTBUS_TEST_CHILD") else { return };
    let bus = Bus::in_memory().await.unwrap();
    let stopper = bus.clone();
    bus.background("stop", |_| async move {
        stopper.shut_down();
        Ok(())
    })
    .await
    .unwrap();
    println!("ended {:?}", bus.run().await);
    if what == "again" {
        let bus = Bus::in_memory().await.unwrap();
        bus.on_start(|_| async {
            println!("runs again");
            Ok(())
        });
        println!("ended again {:?}", bus.run().await);
    }
    println!("goes on");
    std::thread::sleep(60 * SECOND);
}

#[cfg(unix)]
fn child(what: &str) -> std::process::Command {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "life::child_that_ran", "--nocapture"]).env("LIGHTBUS_TEST_CHILD", what);
    child.env_remove("LIGHTBUS_CONFIG").env_remove("LIGHTBUS_FEATURES");
    child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    child
}

/// Reads until a line with this in it.
#[cfg(unix)]
fn wait_for(lines: &mut impl Iterator<Item = std::io::Result<String>>, part: &str) {
    assert!(lines.any(|line| line.unwrap().contains(part)), "never printed {part}");
}

#[cfg(unix)]
fn send(child: &std::process::Child, signal: &str) {
    let id = child.id().to_string();
    let sent = std::process::Command::new("kill").args([&format!("-{signal}"), &id]).status();
    assert!(sent.unwrap().success());
}

#[cfg(unix)]
fn end(mut child: std::process::Child) -> std::process::ExitStatus {
    let until = std::time::Instant::now() + 20 * SECOND;
    while std::time::Instant::now() < until {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        std::thread::sleep(SECOND / 100);
    }
    child.kill().unwrap();
    panic!("it did not end");
}

#[cfg(unix)]
#[test]
fn signals_end_the_process_when_no_bus_runs_any_more() {
    use std::{
        io::{BufRead, BufReader},
        os::unix::process::ExitStatusExt,
    };
    for (name, number) in [("TERM", 15), ("INT", 2)] {
        let mut child = child("once").spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        wait_for(&mut lines, "goes on");
        send(&child, name);
        let status = end(child);
        assert_eq!(status.signal(), Some(number), "{status}");
    }
}

#[cfg(unix)]
#[test]
fn a_bus_that_runs_later_takes_signals_again() {
    use std::{
        io::{BufRead, BufReader},
        os::unix::process::ExitStatusExt,
    };
    let mut child = child("again").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    wait_for(&mut lines, "runs again");
    send(&child, "TERM");
    wait_for(&mut lines, "ended again Ok(())");
    wait_for(&mut lines, "goes on");
    send(&child, "TERM");
    assert_eq!(end(child).signal(), Some(15));
}

#[cfg(unix)]
#[test]
fn a_closed_standard_error_does_not_end_the_process() {
    use std::io::{BufRead, BufReader};
    let mut child = child("once").spawn().unwrap();
    drop(child.stderr.take());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    wait_for(&mut lines, "ended Ok(())");
    send(&child, "KILL");
    end(child);
}

#[lightbus::api(name = "bank")]
pub trait Bank {
    async fn balance(&self) -> u64;
}

struct Till;

impl Bank for Till {
    async fn balance(&self) -> u64 {
        7
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_is_retried_and_keeps_no_other_api_from_its_own() {
    let scripted = Scripted::default();
    let (server, other) = (scripted.bus().await, scripted.bus().await);
    server.serve(BankApi(Till)).await.unwrap();
    server.register(ClockClient::contract()).await.unwrap();
    // The renewal after 48 s fails for one of the two.
    scripted.script.store.will([Act::Fail]);
    let before = scripted.script.store.count();
    sleep(58 * SECOND).await;
    assert!(scripted.script.store.count() >= before + 3, "both were tried, one again");
    // After 60 s, what was not renewed has expired.
    sleep(10 * SECOND).await;
    assert_eq!(live(&other).await, ["bank", "clock"]);
    server.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_schema_that_expired_does_not_mean_that_the_api_is_not_served() {
    let scripted = Scripted::default();
    let (server, caller) = (scripted.bus().await, scripted.bus().await);
    server.serve(BankApi(Till)).await.unwrap();
    assert_eq!(BankClient::new(&caller).balance().await.unwrap(), 7);
    // No renewal works for five minutes.
    scripted.script.store.will([Act::Fail; 1000]);
    sleep(300 * SECOND).await;
    assert!(caller.remote_apis().await.unwrap().is_empty(), "it has expired");
    assert_eq!(BankClient::new(&caller).balance().await.unwrap(), 7);
    // Once renewals work, it is soon back.
    scripted.script.store.pass();
    sleep(11 * SECOND).await;
    assert_eq!(live(&caller).await, ["bank"]);
    // What was never seen is not sent.
    let error = caller.call::<u64>("vault.open", args! {}).await.unwrap_err();
    assert!(error.to_string().contains("no process serves `vault`"), "{error}");
    server.close().await.unwrap();
    caller.close().await.unwrap();
}
