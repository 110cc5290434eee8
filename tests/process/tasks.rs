//! Scheduled and background tasks, with time paused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{Error, ErrorKind, health::Condition, prelude::*};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

const SECOND: Duration = Duration::from_secs(1);

async fn bus() -> Bus {
    Bus::in_memory().await.unwrap()
}

fn run(bus: &Bus) -> JoinHandle<lightbus::Result<()>> {
    tokio::spawn(bus.clone().run())
}

async fn end(bus: &Bus, running: JoinHandle<lightbus::Result<()>>) -> lightbus::Result<()> {
    bus.shut_down();
    running.await.unwrap()
}

/// Work that tells when it began, in seconds after now.
fn beat() -> (impl Fn(Bus) -> std::future::Ready<HandlerResult>, mpsc::Receiver<f64>) {
    let (sender, beats) = mpsc::channel(64);
    let begin = Instant::now();
    let work = move |_| {
        sender.try_send(begin.elapsed().as_secs_f64().round()).unwrap();
        std::future::ready(Ok(()))
    };
    (work, beats)
}

async fn take(beats: &mut mpsc::Receiver<f64>, count: usize) -> Vec<f64> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(beats.recv().await.unwrap());
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn it_is_done_every_so_often_once_the_process_runs() {
    let bus = bus().await;
    let (work, mut beats) = beat();
    bus.every("beat", 10 * SECOND, work).await.unwrap();
    tokio::time::sleep(60 * SECOND).await;
    assert!(beats.try_recv().is_err(), "nobody runs yet");
    let running = run(&bus);
    assert_eq!(take(&mut beats, 3).await, [70.0, 80.0, 90.0]);
    end(&bus, running).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_is_done_at_once_if_asked_for_and_added_later() {
    let bus = bus().await;
    let (work, mut beats) = beat();
    bus.every("beat", 10 * SECOND, work).immediately().await.unwrap();
    let running = run(&bus);
    assert_eq!(take(&mut beats, 2).await, [0.0, 10.0]);
    let (work, mut beats) = beat();
    bus.every("later", 3 * SECOND, work).await.unwrap();
    assert_eq!(take(&mut beats, 2).await, [3.0, 6.0]);
    end(&bus, running).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn it_never_overlaps_and_keeps_its_beat() {
    let bus = bus().await;
    let (sender, mut beats) = mpsc::channel(64);
    let (begin, at_once) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    bus.every("slow", 10 * SECOND, move |_| {
        let (sender, at_once) = (sender.clone(), Arc::clone(&at_once));
        async move {
            assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "it overlaps");
            sender.try_send(begin.elapsed().as_secs_f64().round()).unwrap();
            tokio::time::sleep(14 * SECOND).await;
            at_once.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .await
    .unwrap();
    let running = run(&bus);
    assert_eq!(take(&mut beats, 3).await, [10.0, 30.0, 50.0]);
    end(&bus, running).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_shown_and_it_is_done_again() {
    let bus = bus().await;
    let (sender, mut beats) = mpsc::channel(64);
    let count = AtomicUsize::new(0);
    bus.every("shaky", SECOND, move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst);
        sender.try_send(number).unwrap();
        async move {
            match number {
                0 => Err(HandlerError::new("not yet")),
                1 => panic!("nor now"),
                _ => Ok(()),
            }
        }
    })
    .await
    .unwrap();
    let running = run(&bus);
    for (number, error) in [(0, Some("not yet")), (1, Some("it panicked: nor now")), (2, None)] {
        assert_eq!(beats.recv().await, Some(number));
        tokio::time::sleep(SECOND / 2).await;
        let task = &bus.health().parts[0];
        assert_eq!(task.last_error.as_deref(), error);
        let condition = if error.is_some() { Condition::Failed } else { Condition::Idle };
        assert_eq!((task.condition, task.finished), (condition, number as u64 + 1));
    }
    end(&bus, running).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failure_ends_the_process_if_asked_for() {
    let bus = bus().await;
    let failing = |_| async { Err(HandlerError::new("no paper")) };
    bus.every("print", SECOND, failing).shut_down_on_error().await.unwrap();
    let error = bus.run().await.unwrap_err().to_string();
    assert!(error.contains("running the task print") && error.contains("no paper"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_runs_in_the_background_is_dropped_at_the_end_and_its_failure_ends_the_process() {
    let bus = bus().await;
    let (alive, mut dropped) = mpsc::channel::<()>(1);
    bus.background("forever", move |_| async move {
        let _alive = alive;
        std::future::pending().await
    })
    .await
    .unwrap();
    bus.background("done", |_| async { Ok(()) }).await.unwrap();
    let running = run(&bus);
    tokio::time::sleep(SECOND).await;
    assert!(dropped.try_recv().is_err_and(|error| error == mpsc::error::TryRecvError::Empty));
    end(&bus, running).await.unwrap();
    assert_eq!(dropped.recv().await, None);

    let bus = self::bus().await;
    bus.background("import", |_| async { panic!("no file") }).await.unwrap();
    let error = bus.run().await.unwrap_err().to_string();
    assert!(error.contains("running the task import") && error.contains("no file"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_runs_may_finish_within_the_drain_timeout() {
    let bus = Bus::builder().config(Default::default()).drain_timeout(5 * SECOND);
    let bus = bus.connect().await.unwrap();
    let (sender, mut told) = mpsc::channel(8);
    for (name, seconds) in [("finishes", 4), ("is cut off", 60)] {
        let sender = sender.clone();
        bus.every(name, 60 * SECOND, move |_| {
            let sender = sender.clone();
            async move {
                sender.send("began").await?;
                tokio::time::sleep(seconds * SECOND).await;
                sender.send(name).await?;
                Ok(())
            }
        })
        .immediately()
        .await
        .unwrap();
    }
    let running = run(&bus);
    assert_eq!((told.recv().await, told.recv().await), (Some("began"), Some("began")));
    let error = end(&bus, running).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.to_string().contains("drain_timeout"), "{error}");
    assert_eq!(told.recv().await, Some("finishes"));
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn what_cannot_be_is_refused() {
    let bus = bus().await;
    let nothing = |_| async { Ok(()) };
    let refused = |added: lightbus::Result<()>, part: &str| {
        let error: Error = added.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(part), "{error}");
    };
    refused(bus.every("beat", Duration::ZERO, nothing).await, "the period must not be zero");
    refused(bus.every("", SECOND, nothing).await, "a task needs a name");
    bus.every("beat", SECOND, nothing).await.unwrap();
    refused(
        bus.every("beat", SECOND, nothing).await,
        "adding the task `beat`: this process already has",
    );
    for pattern in ["", "every day", "99 * * * *", "* * *"] {
        refused(bus.cron("report", pattern, nothing).await, "is not a cron pattern");
    }
    bus.close().await.unwrap();
    assert_eq!(bus.every("late", SECOND, nothing).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn it_is_done_by_the_calendar() {
    use lightbus::testing::TestBus;
    let test = TestBus::start().await.unwrap();
    let bus = test.bus().clone();
    let (sender, mut beats) = mpsc::channel(64);
    let begin = Instant::now();
    let work = move |_: Bus| {
        sender.try_send(begin.elapsed()).unwrap();
        std::future::ready(Ok(()))
    };
    bus.cron("hourly", "0 * * * *", work.clone()).await.unwrap();
    let running = run(&bus);
    let first = beats.recv().await.unwrap();
    assert!(first <= 3600 * SECOND, "{first:?}");
    let second = beats.recv().await.unwrap();
    let third = beats.recv().await.unwrap();
    for (one, next) in [(first, second), (second, third)] {
        let between = (next - one).as_secs_f64();
        assert!((between - 3600.0).abs() < 0.5, "{between}");
    }
    assert!(bus.summary().contains("does     hourly at 0 * * * * UTC"), "{}", bus.summary());
    end(&bus, running).await.unwrap();
}

#[tokio::test]
async fn the_calendar_is_the_machine_s() {
    let bus = bus().await;
    let (work, mut beats) = beat();
    bus.cron_local("each second", "* * * * * *", work).await.unwrap();
    let running = run(&bus);
    let taken = tokio::time::timeout(20 * SECOND, take(&mut beats, 2)).await.unwrap();
    assert!(taken[1] > taken[0], "{taken:?}");
    end(&bus, running).await.unwrap();
}
