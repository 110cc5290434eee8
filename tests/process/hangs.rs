//! What takes too long: procedures, handlers and tasks, in health and to those who wait. With time paused.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{
    ErrorKind,
    config::Config,
    health::{Condition, PartHealth},
    plugins::Plugin,
    prelude::*,
};
use lightbus::{ResultMessage, RpcMessage};
use tokio::time::{Instant, sleep};

const SECOND: Duration = Duration::from_secs(1);

#[lightbus::api(name = "slow", events(Started))]
pub trait Slow {
    async fn wait(&self, seconds: u64) -> u64;
    async fn relay(&self, seconds: u64) -> u64;
}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Started {
    pub number: u64,
}

#[derive(Clone, Default)]
struct Count {
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    finished: Arc<AtomicUsize>,
}

impl Count {
    fn of(&self) -> (usize, usize, usize) {
        let count = |number: &AtomicUsize| number.load(Ordering::SeqCst);
        (count(&self.begun), count(&self.dropped), count(&self.finished))
    }
}

/// Counts itself as dropped.
struct Held(Arc<AtomicUsize>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Service(Count, Bus);

impl Slow for Service {
    async fn wait(&self, seconds: u64) -> u64 {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        let _held = Held(Arc::clone(&self.0.dropped));
        sleep(Duration::from_secs(seconds)).await;
        self.0.finished.fetch_add(1, Ordering::SeqCst);
        seconds
    }

    async fn relay(&self, seconds: u64) -> u64 {
        SlowClient::new(&self.1).wait(seconds).timeout(100 * SECOND).await.unwrap()
    }
}

async fn start(change: impl FnOnce(&mut Config)) -> Bus {
    let mut config = Config::default();
    change(&mut config);
    Bus::builder().config(config).connect().await.unwrap()
}

fn part(bus: &Bus) -> PartHealth {
    bus.health().parts.remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_procedure_ends_at_its_callers_deadline_and_its_place_is_free() {
    let (bus, count) = (start(|_| ()).await, Count::default());
    bus.serve(SlowApi(Service(count.clone(), bus.clone()))).concurrency(1).await.unwrap();
    let client = SlowClient::new(&bus);
    let error = client.wait(3600).timeout(2 * SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    sleep(SECOND / 10).await;
    assert_eq!(count.of(), (1, 1, 0));
    // The only place is free for another.
    assert_eq!(client.wait(1).timeout(5 * SECOND).await.unwrap(), 1);
    assert!(bus.health().healthy, "{:?}", bus.health());
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_procedure_that_exceeds_its_limit_is_told_to_its_caller() {
    for by_configuration in [false, true] {
        let bus = start(|config| {
            let api = config.apis.entry("default".to_owned()).or_default();
            api.procedure_timeout = by_configuration.then_some(3 * SECOND);
        })
        .await;
        let count = Count::default();
        let serve = bus.serve(SlowApi(Service(count.clone(), bus.clone())));
        if by_configuration { serve } else { serve.timeout(3 * SECOND) }.await.unwrap();
        let began = Instant::now();
        let error = SlowClient::new(&bus).wait(3600).timeout(60 * SECOND).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
        assert!(error.to_string().contains("did not return within 3s"), "{error}");
        assert!(began.elapsed() < 4 * SECOND, "{:?}", began.elapsed());
        assert_eq!(count.of(), (1, 1, 0));
        bus.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_procedure_that_may_finish_late_does_and_its_calls_do_not_inherit_the_deadline() {
    let (bus, count) = (start(|_| ()).await, Count::default());
    bus.serve(SlowApi(Service(count.clone(), bus.clone()))).finish_late().await.unwrap();
    let error = SlowClient::new(&bus).relay(20).timeout(2 * SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    sleep(30 * SECOND).await;
    assert_eq!(count.of(), (1, 1, 1));
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_procedure_that_may_take_any_time_and_hangs_is_stuck() {
    let (bus, count) = (start(|_| ()).await, Count::default());
    bus.serve(SlowApi(Service(count, bus.clone()))).finish_late().await.unwrap();
    SlowClient::new(&bus).wait(3600).timeout(SECOND).await.unwrap_err();
    sleep(290 * SECOND).await;
    assert_eq!(part(&bus).condition, Condition::Busy);
    sleep(20 * SECOND).await;
    assert_eq!(part(&bus).condition, Condition::Stuck);
    assert!(!bus.health().healthy);
}

/// What plugins are told of a call's end; hangs itself if asked to.
struct Watches {
    ends: Arc<AtomicUsize>,
    hangs: bool,
}

#[lightbus::async_trait]
impl Plugin for Watches {
    fn name(&self) -> &str {
        "watches"
    }

    async fn before_rpc_execution(&self, _: &Bus, _: &mut RpcMessage) -> lightbus::Result<()> {
        if self.hangs {
            pending::<()>().await;
        }
        Ok(())
    }

    async fn after_rpc_execution(
        &self,
        _: &Bus,
        _: &RpcMessage,
        result: &mut ResultMessage,
    ) -> lightbus::Result<()> {
        self.ends.fetch_add(usize::from(result.body.is_err()), Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn plugins_see_a_procedure_that_is_cut_off_and_one_that_hangs_is_cut_off_itself() {
    for hangs in [false, true] {
        let ends = Arc::new(AtomicUsize::new(0));
        let plugin = Watches { ends: Arc::clone(&ends), hangs };
        let bus = Bus::builder().config(Config::default()).plugin(plugin).connect().await.unwrap();
        let serve = bus.serve(SlowApi(Service(Count::default(), bus.clone())));
        serve.timeout(SECOND).await.unwrap();
        let error = SlowClient::new(&bus).wait(3600).timeout(10 * SECOND).await.unwrap_err();
        assert!(error.to_string().contains("did not return within 1s"), "{error}");
        assert_eq!(ends.load(Ordering::SeqCst), usize::from(!hangs));
        bus.close().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_never_returns_is_stuck_after_five_minutes() {
    let bus = start(|_| ()).await;
    bus.register(SlowClient::contract()).await.unwrap();
    bus.listen("hang", |_: Started| pending()).await.unwrap();
    for number in 0..20 {
        bus.fire(Started { number }).await.unwrap();
    }
    sleep(299 * SECOND).await;
    let seen = part(&bus);
    assert_eq!(
        (seen.condition, seen.in_progress),
        (Condition::Busy, 1),
        "only what is begun counts"
    );
    sleep(5 * SECOND).await;
    let seen = part(&bus);
    assert_eq!(seen.condition, Condition::Stuck, "{seen:?}");
    assert!(seen.oldest >= Some(300 * SECOND), "{seen:?}");
    assert!(!bus.health().healthy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_is_stuck_at_its_own_limit() {
    let bus = start(|_| ()).await;
    bus.register(SlowClient::contract()).await.unwrap();
    let (release, blocked) = std::sync::mpsc::channel::<()>();
    let blocked = std::sync::Mutex::new(blocked);
    let listen = bus.listen("block", move |_: Started| {
        // Until the end of the test.
        let _ = blocked.lock().unwrap().recv();
        async { Ok(()) }
    });
    listen.timeout(SECOND / 10).await.unwrap();
    bus.fire(Started { number: 1 }).await.unwrap();
    lightbus_tests::eventually("it is stuck", async || {
        part(&bus).condition == Condition::Stuck && !bus.health().healthy
    })
    .await;
    drop(release);
}

#[tokio::test(start_paused = true)]
async fn a_run_of_a_task_that_exceeds_its_limit_has_failed_and_is_done_again() {
    let (bus, count) = (start(|_| ()).await, Count::default());
    let counted = count.clone();
    let work = move |_: Bus| {
        let counted = counted.clone();
        async move {
            counted.begun.fetch_add(1, Ordering::SeqCst);
            let _held = Held(counted.dropped);
            pending::<HandlerResult>().await
        }
    };
    bus.every("tidy", 60 * SECOND, work).timeout(10 * SECOND).await.unwrap();
    let running = tokio::spawn(bus.clone().run());
    sleep(75 * SECOND).await;
    let seen = part(&bus);
    assert_eq!(seen.condition, Condition::Failed);
    assert_eq!(seen.last_error.as_deref(), Some("it did not return within 10s"));
    assert_eq!(count.of(), (1, 1, 0));
    sleep(60 * SECOND).await;
    assert_eq!(count.of(), (2, 2, 0));
    bus.shut_down();
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_is_stuck_after_five_minutes_unless_its_limit_is_longer() {
    for (limit, expected) in [(None, Condition::Stuck), (Some(3600 * SECOND), Condition::Busy)] {
        let bus = start(|_| ()).await;
        let task = bus.every("export", 60 * SECOND, |_| pending());
        let task = limit.into_iter().fold(task, |task, limit| task.timeout(limit));
        task.await.unwrap();
        let running = tokio::spawn(bus.clone().run());
        sleep(400 * SECOND).await;
        assert_eq!(part(&bus).condition, expected);
        running.abort();
    }
    let bus = start(|_| ()).await;
    let error = bus.background("import", |_| pending()).timeout(SECOND).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}
