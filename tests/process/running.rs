//! Running a process: hooks, features, signals, draining.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use lightbus::{ErrorKind, Features, health::Condition, prelude::*};
use lightbus_tests::{Place, Program, eventually, on_every_transport, soon};
use tokio::sync::{Notify, mpsc};

#[lightbus::api(name = "clock", events(Struck))]
pub trait Clock {
    /// Answers after so many milliseconds, and fires what it answered.
    async fn wait(&self, millis: u64) -> u64;
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct Struck {
    pub hour: u64,
}

struct Service {
    bus: Bus,
    begun: Arc<Notify>,
}

impl Clock for Service {
    async fn wait(&self, millis: u64) -> u64 {
        self.begun.notify_one();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        self.bus.fire(Struck { hour: millis }).await.unwrap();
        millis
    }
}

fn service(bus: &Bus) -> (ClockApi<Service>, Arc<Notify>) {
    let begun = Arc::new(Notify::new());
    (ClockApi(Service { bus: bus.clone(), begun: Arc::clone(&begun) }), begun)
}

on_every_transport!(
    hooks_run_in_their_order_and_use_the_bus,
    what_runs_may_call_and_fire_while_the_bus_drains,
    a_hook_that_fails_ends_the_process_and_the_others_clean_up,
    what_is_switched_off_is_left_to_others,
    health_shows_what_is_done,
);

async fn hooks_run_in_their_order_and_use_the_bus(place: Place) {
    let (heard, mut hours) = mpsc::channel(8);
    let other = place.bus("other").await;
    other
        .listen("hours", move |event: Struck| {
            let heard = heard.clone();
            async move {
                heard.send(event.hour).await?;
                Ok(())
            }
        })
        .await
        .unwrap();

    let bus = place.bus("clock").await;
    let order = Arc::new(Mutex::new(Vec::new()));
    for (name, hour) in [("first", 1), ("second", 2)] {
        let order = Arc::clone(&order);
        bus.on_start(move |bus| async move {
            if hour == 1 {
                let (service, _) = service(&bus);
                bus.serve(service).await?;
            }
            order.lock().unwrap().push(name);
            bus.fire(Struck { hour }).await?;
            Ok(())
        });
    }
    let late = Arc::clone(&order);
    bus.on_stop(move |bus| async move {
        bus.fire(Struck { hour: 12 }).await?;
        late.lock().unwrap().push("stop");
        Ok(())
    });
    let running = tokio::spawn(bus.clone().run());
    assert_eq!(soon("the first", hours.recv()).await, Some(1));
    assert_eq!(soon("the second", hours.recv()).await, Some(2));
    assert_eq!(ClockClient::new(&other).wait(3).await.unwrap(), 3);
    assert_eq!(soon("the call's", hours.recv()).await, Some(3));
    assert!(!order.lock().unwrap().contains(&"stop"));

    bus.shut_down();
    soon("running", running).await.unwrap().unwrap();
    assert_eq!(soon("the last", hours.recv()).await, Some(12));
    assert_eq!(*order.lock().unwrap(), ["first", "second", "stop"]);
    let error = bus.fire(Struck { hour: 13 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    other.close().await.unwrap();
}

async fn what_runs_may_call_and_fire_while_the_bus_drains(place: Place) {
    let bus = place.bus("clock").await;
    let (service, begun) = service(&bus);
    bus.serve(service).await.unwrap();
    let caller = place.bus("caller").await;
    let call = tokio::spawn(async move {
        let hour = ClockClient::new(&caller).wait(300).await;
        caller.close().await.unwrap();
        hour
    });
    soon("the call", begun.notified()).await;
    let closing = {
        let bus = bus.clone();
        tokio::spawn(async move { bus.close().await })
    };
    assert_eq!(soon("the call", call).await.unwrap().unwrap(), 300);
    soon("closing", closing).await.unwrap().unwrap();
}

async fn a_hook_that_fails_ends_the_process_and_the_others_clean_up(place: Place) {
    let bus = place.bus("clock").await;
    let order = Arc::new(Mutex::new(Vec::new()));
    bus.on_start(|_| async { Err(HandlerError::new("no disk")) });
    let log = Arc::clone(&order);
    bus.on_start(move |_| async move {
        log.lock().unwrap().push("left out");
        Ok(())
    });
    bus.on_stop(|_| async { panic!("in a hurry") });
    let log = Arc::clone(&order);
    bus.on_stop(move |_| async move {
        log.lock().unwrap().push("stopped");
        Ok(())
    });
    let error = soon("running", bus.run()).await.unwrap_err().to_string();
    assert!(error.contains("running an on_start hook") && error.contains("no disk"), "{error}");
    assert_eq!(*order.lock().unwrap(), ["stopped"]);
}

async fn what_is_switched_off_is_left_to_others(place: Place) {
    let features = Features::none().with_tasks(true);
    let idle = place.builder("clock", "", |_| ()).features(features);
    let idle = soon("connecting", idle.connect()).await.unwrap();
    let (answers_nothing, _) = service(&idle);
    idle.serve(answers_nothing).await.unwrap();
    idle.listen("hours", |_: Struck| async { Err(HandlerError::new("not for me")) }).await.unwrap();
    assert!(idle.health().parts.is_empty(), "{:?}", idle.health());
    assert!(idle.summary().contains("features tasks"), "{}", idle.summary());

    let caller = place.bus("caller").await;
    let unanswered = ClockClient::new(&caller).wait(1).timeout(Duration::from_secs(2)).await;
    assert_eq!(unanswered.unwrap_err().kind(), ErrorKind::Timeout);

    let features: Features = "rpcs".parse().unwrap();
    let works = place.builder("clock", "", |_| ()).features(features);
    let works = soon("connecting", works.connect()).await.unwrap();
    let (answers, _) = service(&works);
    works.serve(answers).await.unwrap();
    works
        .every("beat", Duration::from_secs(1), |_| async { panic!("switched off") })
        .await
        .unwrap();
    assert_eq!(ClockClient::new(&caller).wait(2).await.unwrap(), 2);
    for bus in [idle, works, caller] {
        bus.close().await.unwrap();
    }
}

async fn health_shows_what_is_done(place: Place) {
    let bus = place.bus("clock").await;
    let (service, begun) = service(&bus);
    bus.serve(service).await.unwrap();
    let failing = Arc::new(Notify::new());
    let bell = Arc::clone(&failing);
    bus.listen("hours", move |_: Struck| {
        bell.notify_one();
        async { Ok(()) }
    })
    .await
    .unwrap();
    let health = bus.health();
    assert!(health.healthy, "{health:?}");
    assert!(health.parts.iter().all(|part| part.condition == Condition::Idle), "{health:?}");

    let call = {
        let bus = bus.clone();
        tokio::spawn(async move { ClockClient::new(&bus).wait(200).await })
    };
    soon("the call", begun.notified()).await;
    let worker = bus.health().parts[0].clone();
    assert_eq!(
        (&*worker.name, worker.condition, worker.in_progress),
        ("clock", Condition::Busy, 1)
    );
    soon("the call", call).await.unwrap().unwrap();
    soon("the event", failing.notified()).await;
    eventually("both are done", async || {
        bus.health().parts.iter().all(|part| part.finished == 1 && part.in_progress == 0)
    })
    .await;
    let shown = serde_json::to_value(bus.health()).unwrap();
    assert_eq!(shown["healthy"], true);
    assert_eq!(shown["parts"][1]["kind"], "listener");
    assert_eq!(shown["parts"][1]["name"], "hours");
    bus.shut_down();
    assert!(!bus.health().healthy, "it takes its leave");
    bus.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_broker_is_away_is_not_healthy_until_it_is_back() {
    let Some(mut server) = lightbus_tests::RedisServer::start_durable() else { return };
    let bus = lightbus_tests::redis_bus(&server.url(), "clock").await;
    bus.listen("hours", |_: Struck| async { Ok(()) }).await.unwrap();
    assert!(bus.health().healthy);
    server.kill();
    eventually("it is noticed", async || !bus.health().healthy).await;
    assert_eq!(bus.health().parts[0].condition, Condition::Interrupted);
    server.restart();
    eventually("it is back", async || bus.health().healthy).await;
    bus.close().await.unwrap();
}

#[test]
fn features_are_read_and_misspelt_ones_refused() {
    let features: Features = " rpcs,tasks ".parse().unwrap();
    assert_eq!(features, Features::default().with_events(false));
    assert_eq!(features.to_string(), "rpcs, tasks");
    assert_eq!("".parse::<Features>().unwrap(), Features::none());
    let error = "rcps".parse::<Features>().unwrap_err().to_string();
    assert!(error.contains("`rcps`") && error.contains("Did you mean `rpcs`?"), "{error}");
}

/// Not a test by itself: the process to which the next tests send signals.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_runs() {
    let Ok(how) = std::env::var("LIGHTBUS_TEST_CHILD") else { return };
    let bus = Bus::in_memory().await.unwrap();
    let (service, begun) = service(&bus);
    bus.serve(service).await.unwrap();
    bus.on_start(|_| async {
        println!("on_start");
        Ok(())
    });
    bus.on_stop(|_| async {
        println!("on_stop");
        Ok(())
    });
    struct Draining;
    impl Drop for Draining {
        fn drop(&mut self) {
            println!("draining");
        }
    }
    let millis = if how == "slow" { 60_000 } else { 400 };
    bus.background("caller", move |bus| async move {
        let _draining = Draining;
        let answer = ClockClient::new(&bus).wait(millis).timeout(Duration::from_secs(100)).await;
        println!("answer {answer:?}");
        Ok(())
    })
    .await
    .unwrap();
    tokio::spawn(async move {
        begun.notified().await;
        println!("working");
    });
    // The procedure outlives its caller: what runs may finish.
    println!("ended {:?}", bus.run().await);
}

fn child(how: &str) -> Program {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "running::child_that_runs", "--nocapture"])
        .env("LIGHTBUS_TEST_CHILD", how);
    child.env_remove("LIGHTBUS_CONFIG").env_remove("LIGHTBUS_FEATURES");
    Program::start(&mut child)
}

#[test]
#[cfg(unix)]
fn a_signal_lets_what_runs_finish() {
    for signal in ["TERM", "INT"] {
        let mut child = child("quick");
        child.wait_for("working");
        child.signal(signal);
        let (code, printed) = child.finish();
        assert_eq!(code, Some(0), "{printed}");
        let order: Vec<_> = ["on_start", "on_stop", "ended Ok(())"]
            .iter()
            .map(|line| printed.find(line).unwrap_or_else(|| panic!("no {line}: {printed}")))
            .collect();
        assert!(order.is_sorted(), "{printed}");
    }
}

#[test]
#[cfg(unix)]
fn a_second_signal_ends_at_once() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut child = child("slow");
        child.wait_for("working");
        child.signal("INT");
        // Two of a kind that come at once are one.
        child.wait_for("draining");
        child.signal(signal);
        child.wait_for("second signal: exiting at once");
        let (ended, printed) = child.finish();
        assert_eq!(ended, Some(code), "{printed}");
        assert!(!printed.contains("on_stop"), "{printed}");
    }
}

#[test]
fn features_come_from_the_environment() {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "running::child_that_runs", "--nocapture"])
        .env("LIGHTBUS_TEST_CHILD", "quick")
        .env("LIGHTBUS_FEATURES", "rpcs,evnts");
    let (code, printed) = Program::start(&mut child).finish();
    assert_ne!(code, Some(0));
    assert!(printed.contains("there is no feature `evnts`"), "{printed}");
    assert!(printed.contains("LIGHTBUS_FEATURES"), "{printed}");
}
