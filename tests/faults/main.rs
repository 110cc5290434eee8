//! What happens when Redis, or the way to it, goes bad in the middle of traffic.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]
#![allow(
    missing_docs,
    unreachable_pub,
    missing_debug_implementations,
    reason = "contracts of tests"
)]

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lightbus::{ErrorKind, RetryPolicy, config::Config, prelude::*};
use lightbus_tests::{Fault, Program, Proxy, RedisServer, eventually, redis_bus, redis_yaml, soon};
use tokio::sync::Semaphore;

#[lightbus::api(name = "echo", events(Counted))]
pub trait Echo {
    async fn echo(&self, number: u64) -> u64;
}

#[derive(lightbus::Event)]
pub struct Counted {
    pub number: u64,
}

struct Echoes;

impl Echo for Echoes {
    async fn echo(&self, number: u64) -> u64 {
        number
    }
}

/// A call may take its deadline, and this much more to notice.
const DEADLINE: Duration = Duration::from_secs(2);
const SLACK: Duration = Duration::from_secs(3);

/// A bus whose lost events are taken over quickly.
async fn quick_bus(url: &str, service: &str, process: &str) -> Bus {
    let yaml = redis_yaml(url, ", acknowledgement_timeout: 2, reclaim_interval: 0.5");
    let config = Config::from_yaml(&yaml).unwrap();
    let builder = Bus::builder().config(config).service_name(service).process_name(process);
    soon("connecting", builder.connect()).await.unwrap()
}

/// Calls and events that go on until told to stop, and the account of them.
struct Traffic {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    answered: Arc<AtomicU64>,
    confirmed: Arc<Mutex<HashSet<u64>>>,
    handled: Arc<Mutex<HashSet<u64>>>,
    slowest: Arc<Mutex<Duration>>,
    wrong: Arc<Mutex<Vec<String>>>,
}

impl Traffic {
    /// Calls and fires over `near`; serves and listens over `far`.
    async fn start(near: &Bus, far: &Bus) -> Self {
        let traffic = Self {
            stop: Arc::default(),
            tasks: Vec::new(),
            answered: Arc::default(),
            confirmed: Arc::default(),
            handled: Arc::default(),
            slowest: Arc::default(),
            wrong: Arc::default(),
        };
        far.serve(EchoApi(Echoes)).await.unwrap();
        let handled = Arc::clone(&traffic.handled);
        far.listen("count", move |event: Counted| {
            handled.lock().unwrap().insert(event.number);
            async { Ok(()) }
        })
        .await
        .unwrap();
        near.register(EchoClient::contract()).await.unwrap();
        traffic.begin(near)
    }

    fn begin(mut self, near: &Bus) -> Self {
        for caller in 0..8_u64 {
            let (bus, stop, answered) =
                (near.clone(), Arc::clone(&self.stop), Arc::clone(&self.answered));
            let (slowest, wrong) = (Arc::clone(&self.slowest), Arc::clone(&self.wrong));
            self.tasks.push(tokio::spawn(async move {
                let client = EchoClient::new(&bus);
                for number in (caller << 32).. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let began = Instant::now();
                    match client.echo(number).timeout(DEADLINE).await {
                        Ok(answer) if answer == number => {
                            answered.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok(answer) => {
                            wrong.lock().unwrap().push(format!("{number} was answered {answer}"))
                        }
                        Err(error)
                            if matches!(
                                error.kind(),
                                ErrorKind::Timeout | ErrorKind::Unavailable
                            ) =>
                        {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        Err(error) => wrong.lock().unwrap().push(format!("{error:?}")),
                    }
                    let mut slowest = slowest.lock().unwrap();
                    *slowest = began.elapsed().max(*slowest);
                }
            }));
        }
        let (bus, stop) = (near.clone(), Arc::clone(&self.stop));
        let (confirmed, wrong) = (Arc::clone(&self.confirmed), Arc::clone(&self.wrong));
        self.tasks.push(tokio::spawn(async move {
            for number in 0.. {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                match bus.fire(Counted { number }).await {
                    Ok(_) => {
                        confirmed.lock().unwrap().insert(number);
                    }
                    Err(error)
                        if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable) =>
                    {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => wrong.lock().unwrap().push(format!("{error:?}")),
                }
            }
        }));
        self
    }

    /// Waits until calls are answered and events are handled that were sent after now.
    async fn flows(&self, when: &str) {
        let (answered, handled) =
            (self.answered.load(Ordering::SeqCst), self.handled.lock().unwrap().len());
        eventually(&format!("calls are answered {when}"), async || {
            self.answered.load(Ordering::SeqCst) > answered + 50
        })
        .await;
        eventually(&format!("events are handled {when}"), async || {
            self.handled.lock().unwrap().len() > handled + 50
        })
        .await;
    }

    /// Ends, and checks the account.
    async fn finish(self) {
        self.stop.store(true, Ordering::SeqCst);
        for task in self.tasks {
            soon("a caller", task).await.unwrap();
        }
        let wrong = self.wrong.lock().unwrap().clone();
        assert!(wrong.is_empty(), "{wrong:?}");
        let slowest = *self.slowest.lock().unwrap();
        assert!(slowest < DEADLINE + SLACK, "a call took {slowest:?}");
        let confirmed = self.confirmed.lock().unwrap().clone();
        eventually("every confirmed event is handled", async || {
            confirmed.is_subset(&self.handled.lock().unwrap())
        })
        .await;
    }
}

/// Traffic through a proxy that does this for a while.
async fn survives(fault: Fault, lasting: Duration) {
    let Some(server) = RedisServer::start_durable() else { return };
    let proxy = Proxy::start(server.port()).await;
    let near = quick_bus(&proxy.redis_url(), "near", "n1").await;
    let far = quick_bus(&proxy.redis_url(), "far", "f1").await;
    let traffic = Traffic::start(&near, &far).await;
    traffic.flows("before").await;
    let usual = proxy.open();
    for _ in 0..3 {
        proxy.set(fault);
        tokio::time::sleep(lasting).await;
        proxy.set(Fault::None);
        traffic.flows("after").await;
    }
    traffic.finish().await;
    eventually("no connection is left over", async || proxy.open() <= usual + 1).await;
    soon("closing", near.close()).await.ok();
    soon("closing", far.close()).await.ok();
    eventually("all connections end", async || proxy.open() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_cut() {
    survives(Fault::Cut, Duration::from_millis(50)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_refused() {
    survives(Fault::Refuse, Duration::from_millis(700)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_stall() {
    survives(Fault::Stall, Duration::from_millis(700)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_drip() {
    survives(Fault::Drip, Duration::from_millis(700)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_half_closed() {
    survives(Fault::HalfClose, Duration::from_millis(300)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_and_started_again() {
    let Some(mut server) = RedisServer::start_durable() else { return };
    let url = server.url();
    let (near, far) = (quick_bus(&url, "near", "n1").await, quick_bus(&url, "far", "f1").await);
    let traffic = Traffic::start(&near, &far).await;
    for _ in 0..3 {
        traffic.flows("while Redis is there").await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.restart();
    }
    traffic.flows("at the end").await;
    traffic.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flushed_redis_is_set_up_again() {
    let Some(server) = RedisServer::start_durable() else { return };
    let url = server.url();
    let (near, far) = (quick_bus(&url, "near", "n1").await, quick_bus(&url, "far", "f1").await);
    let traffic = Traffic::start(&near, &far).await;
    traffic.flows("before").await;
    server.command(&["FLUSHALL"]);
    // What was in Redis is gone; what is fired from now on must come.
    traffic.confirmed.lock().unwrap().clear();
    let answered = traffic.answered.load(Ordering::SeqCst);
    eventually("calls go on", async || traffic.answered.load(Ordering::SeqCst) > answered + 100)
        .await;
    let handled = traffic.handled.lock().unwrap().len();
    eventually("events go on", async || traffic.handled.lock().unwrap().len() > handled + 100)
        .await;
    traffic.stop.store(true, Ordering::SeqCst);
    for task in traffic.tasks {
        soon("a caller", task).await.unwrap();
    }
    assert!(traffic.wrong.lock().unwrap().is_empty());
}

/// Not a test by itself: the process that the next test kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_counts() {
    let Ok(url) = std::env::var("LIGHTBUS_TEST_CHILD") else { return };
    let bus = quick_bus(&url, "far", "child").await;
    bus.listen("count", |event: Counted| async move {
        tokio::time::sleep(Duration::from_micros(300)).await;
        println!("handled {}", event.number);
        Ok(())
    })
    .await
    .unwrap();
    println!("listening");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_of_a_batch_loses_no_event() {
    let Some(server) = RedisServer::start_durable() else { return };
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "child_that_counts", "--nocapture"])
        .env("LIGHTBUS_TEST_CHILD", server.url());
    let mut child = Program::start(&mut child);
    child.wait_for("listening");
    let source = redis_bus(&server.url(), "near").await;
    source.register(EchoClient::contract()).await.unwrap();
    for number in 0..2000 {
        source.fire(Counted { number }).await.unwrap();
    }
    child.wait_for("handled 150");
    child.kill();
    let (_, printed) = child.finish();
    let mut handled: HashSet<u64> =
        printed.lines().filter_map(|line| line.strip_prefix("handled ")?.parse().ok()).collect();
    assert!(handled.len() < 2000, "it was killed in the middle");

    let heir = quick_bus(&server.url(), "far", "heir").await;
    let rest = Arc::new(Mutex::new(HashSet::new()));
    let set = Arc::clone(&rest);
    heir.listen("count", move |event: Counted| {
        set.lock().unwrap().insert(event.number);
        async { Ok(()) }
    })
    .await
    .unwrap();
    soon("settling", heir.wait_until_idle()).await.unwrap();
    handled.extend(rest.lock().unwrap().iter());
    assert_eq!(handled.len(), 2000, "each event was handled by one or the other");
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_under_load_loses_nothing() {
    let Some(server) = RedisServer::start_durable() else { return };
    let url = server.url();
    let source = redis_bus(&url, "near").await;
    source.register(EchoClient::contract()).await.unwrap();
    let handled = Arc::new(Mutex::new(HashSet::new()));
    let listen = async |bus: &Bus| {
        let set = Arc::clone(&handled);
        bus.listen("count", move |event: Counted| {
            let set = Arc::clone(&set);
            async move {
                tokio::time::sleep(Duration::from_micros(200)).await;
                set.lock().unwrap().insert(event.number);
                Ok(())
            }
        })
        .await
        .unwrap();
    };
    let first = quick_bus(&url, "far", "first").await;
    listen(&first).await;
    let firing = tokio::spawn(async move {
        for number in 0..3000 {
            source.fire(Counted { number }).await.unwrap();
        }
    });
    // Process after process comes and goes while events are fired.
    let mut current = first;
    for round in 0..4 {
        let so_far = handled.lock().unwrap().len();
        eventually("events are handled", async || handled.lock().unwrap().len() > so_far + 100)
            .await;
        soon("closing", current.close()).await.unwrap();
        current = quick_bus(&url, "far", &format!("next-{round}")).await;
        listen(&current).await;
    }
    soon("firing", firing).await.unwrap();
    soon("settling", current.wait_until_idle()).await.unwrap();
    assert_eq!(handled.lock().unwrap().len(), 3000);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_under_way_at_shut_down_are_answered() {
    let Some(server) = RedisServer::start_durable() else { return };
    struct Slow;
    impl Echo for Slow {
        async fn echo(&self, number: u64) -> u64 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            number
        }
    }
    let (near, far) =
        (redis_bus(&server.url(), "near").await, redis_bus(&server.url(), "far").await);
    far.serve(EchoApi(Slow)).concurrency(20).await.unwrap();
    let client = EchoClient::new(&near);
    let calls: Vec<_> = (0..60_u64)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.echo(number).timeout(Duration::from_secs(15)).await })
        })
        .collect();
    eventually("some wait in the queue", async || {
        server.command(&["LLEN", "echo:rpc_queue"]).parse::<u32>().unwrap_or(0) > 0
    })
    .await;
    soon("closing", far.close()).await.unwrap();
    // Those that were not begun are still there for the next worker.
    let next = redis_bus(&server.url(), "far").await;
    next.serve(EchoApi(Echoes)).await.unwrap();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(soon("an answer", call).await.unwrap().unwrap(), number as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_stop_nobody() {
    let Some(server) = RedisServer::start_durable() else { return };
    let bus = redis_bus(&server.url(), "far").await;
    bus.serve(EchoApi(Echoes)).await.unwrap();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let policy = RetryPolicy::attempts(1);
    bus.listen("count", move |_: Counted| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    })
    .on_error(OnError::Retry(policy))
    .await
    .unwrap();
    let deep = "[".repeat(100_000);
    for bad in [
        "",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"metadata": 3}"#,
        r#"{"metadata": {"id": ""}}"#,
        &deep,
        r#"{"kwargs": null, "metadata": {"id": "x", "api_name": "echo", "procedure_name": "echo", "return_path": "ftp://x"}}"#,
        r#"{"kwargs": [1], "metadata": {"id": "y", "api_name": "echo", "procedure_name": "echo", "return_path": "redis+key://y"}}"#,
        r#"{"kwargs": {"number": NaN}, "metadata": {"id": "z", "api_name": "echo", "procedure_name": "echo", "return_path": "redis+key://z"}}"#,
    ] {
        server.command(&["RPUSH", "echo:rpc_queue", bad]);
    }
    for bad in [
        vec!["x", "1"],
        vec![
            "id",
            "1",
            "api_name",
            "echo",
            "event_name",
            "counted",
            "version",
            "abc",
            ":number",
            "1",
        ],
        vec![
            "id",
            "1",
            "api_name",
            "echo",
            "event_name",
            "counted",
            "version",
            "1",
            ":number",
            "{",
        ],
        vec![
            "id",
            "1",
            "api_name",
            "echo",
            "event_name",
            "counted",
            "version",
            "1",
            ":number",
            "\"x\"",
        ],
        vec!["id", "1", "api_name", "echo", "event_name", "counted", "version", "1"],
        vec!["", ""],
    ] {
        let mut words = vec!["XADD", "echo.*:stream", "*"];
        words.extend(bad);
        server.command(&words);
    }
    assert_eq!(EchoClient::new(&bus).echo(7).timeout(Duration::from_secs(10)).await.unwrap(), 7);
    bus.fire(Counted { number: 1 }).await.unwrap();
    soon("settling", bus.wait_until_idle()).await.unwrap();
    assert_eq!(handled.load(Ordering::SeqCst), 1, "the good one");
    let letters = bus.admin().dead_letters("far", "count", 100).await.unwrap();
    assert_eq!(letters.len(), 5, "{letters:?}");
    // The two callers that could be made out were told.
    for key in ["y", "z"] {
        assert_eq!(server.command(&["LLEN", key]), "1", "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_calls_in_flight_hold_a_handful_of_connections() {
    let Some(server) = RedisServer::start_durable() else { return };
    struct Patient {
        begun: Arc<AtomicU64>,
        go: Arc<Semaphore>,
    }
    impl Echo for Patient {
        async fn echo(&self, number: u64) -> u64 {
            self.begun.fetch_add(1, Ordering::SeqCst);
            drop(self.go.acquire().await);
            number
        }
    }
    let (begun, go) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
    let patient = Patient { begun: Arc::clone(&begun), go: Arc::clone(&go) };
    let (near, far) =
        (redis_bus(&server.url(), "near").await, redis_bus(&server.url(), "far").await);
    far.serve(EchoApi(patient)).concurrency(20_000).await.unwrap();
    let client = EchoClient::new(&near);
    let calls: Vec<_> = (0..10_000_u64)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.echo(number).timeout(Duration::from_secs(18)).await })
        })
        .collect();
    eventually("all are at work", async || begun.load(Ordering::SeqCst) == 10_000).await;
    let connections = server.command(&["CLIENT", "LIST"]).lines().count();
    assert!(connections <= 12, "{connections} connections");
    go.close();
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(soon("an answer", call).await.unwrap().unwrap(), number as u64);
    }
}
