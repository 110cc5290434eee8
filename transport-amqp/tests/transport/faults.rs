//! What goes wrong with brokers and connections, and that nothing confirmed is lost and nothing hangs.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{LIMIT, call, event, listen, on, soon, transports, unique};
use lightbus_core::conformance::Transports;
use lightbus_core::{
    Delivery, Error, ErrorKind, EventMessage, Headers, Outcome, ResultMessage, Retry, RpcMessage,
    Subscription,
    transport::{ListenSpec, ServeSpec},
};
use lightbus_test_brokers::RabbitServer;
use serde_json::json;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

/// One test at a time: each breaks the broker, and two brokers would fight for the processor.
static ONE: Mutex<()> = Mutex::const_new(());

/// Fires events one after the other, as fast as they are confirmed, until told to stop. Gives those
/// that were confirmed.
async fn fire(process: Arc<Transports>, api: String, stop: Arc<AtomicUsize>) -> Vec<String> {
    let mut confirmed = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) > 0 {
            break;
        }
        let id = format!("{api}-{n}");
        match soon(process.event.send(&[event(&id, &api)])).await {
            Ok(_) => confirmed.push(id),
            Err(error) => {
                assert!(error.is_temporary(), "it does not pass: {error:?}");
                tokio::task::yield_now().await;
            }
        }
    }
    confirmed
}

/// Takes events until all of these have come. More may come, and some twice.
async fn take_all(events: &mut Subscription<EventMessage>, mut missing: BTreeSet<String>) {
    while !missing.is_empty() {
        let next = timeout(LIMIT, events.next()).await;
        let delivery: Delivery<EventMessage> = next
            .unwrap_or_else(|_| {
                panic!("{} are missing, such as {:?}", missing.len(), missing.first())
            })
            .unwrap()
            .unwrap();
        missing.remove(&*delivery.message.id);
        delivery.ack.settle_later(Outcome::Done);
    }
}

/// Fires while something happens, and looks whether all that was confirmed is there.
async fn fired_while(
    process: &Arc<Transports>,
    spec: ListenSpec,
    what_happens: impl Future<Output = ()>,
) {
    let api = spec.events[0].api.to_string();
    let mut events = soon(process.event.listen(spec)).await.unwrap();
    let stop = Arc::new(AtomicUsize::new(0));
    let fired = tokio::spawn(fire(Arc::clone(process), api.clone(), Arc::clone(&stop)));
    // It has begun.
    let first = soon(events.next()).await.unwrap().unwrap();
    first.ack.settle(Outcome::Done).await.unwrap();
    what_happens.await;
    // It goes on.
    let after = format!("{api}-after");
    let deadline = Instant::now() + 2 * LIMIT;
    while let Err(error) = soon(process.event.send(&[event(&after, &api)])).await {
        assert!(Instant::now() < deadline, "sending never works again: {error:?}");
    }
    stop.store(1, Ordering::Relaxed);
    let confirmed = soon(fired).await.unwrap();
    assert!(!confirmed.is_empty());
    let mut missing: BTreeSet<String> = confirmed.into_iter().collect();
    missing.remove(&*first.message.id);
    missing.insert(after);
    take_all(&mut events, missing).await;
    soon(events.close()).await.unwrap();
}

async fn broker() -> Option<RabbitServer> {
    RabbitServer::start().await
}

fn process(server: &RabbitServer) -> Arc<Transports> {
    Arc::new(on(server))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_stopped_has_all_that_it_confirmed() {
    let _one = ONE.lock().await;
    let Some(mut server) = broker().await else { return };
    let process = process(&server);
    let api = unique("orders");
    fired_while(&process, listen(&api, "one"), async {
        server.stop().await;
        server.restart().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_was_killed_has_all_that_it_confirmed() {
    let _one = ONE.lock().await;
    let Some(mut server) = broker().await else { return };
    let process = process(&server);
    let api = unique("orders");
    let spec = listen(&api, "one");
    soon(soon(process.event.listen(spec.clone())).await.unwrap().close()).await.unwrap();
    // Politely first: then the broker has written down that the queue is there.
    server.stop().await;
    server.restart().await;
    fired_while(&process, spec, async {
        server.kill();
        server.restart().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_broker_closes_are_made_anew() {
    let _one = ONE.lock().await;
    let Some(server) = broker().await else { return };
    let process = process(&server);
    let api = unique("orders");
    fired_while(&process, listen(&api, "one"), async {
        for _ in 0..3 {
            server.ctl(&["close_all_connections", "a test"]).await;
        }
    })
    .await;
}

/// Answers calls until it is dropped.
fn answer(
    process: Arc<Transports>,
    mut calls: Subscription<RpcMessage>,
) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(Ok(delivery)) = calls.next().await {
            let result = ResultMessage {
                id: "result".into(),
                rpc_id: delivery.message.id.clone(),
                headers: Headers::new(),
                body: Ok("true".into()),
            };
            // A caller whose way back is gone waits in vain; the next does not.
            let _ = process.result.reply(&delivery.message.return_path, result).await;
            delivery.ack.settle_later(Outcome::Done);
        }
    })
}

async fn call_once(
    process: &Transports,
    api: &str,
    id: &str,
    limit: Duration,
) -> Result<(), Error> {
    let pending = process.result.expect(&id.into()).await?;
    process.rpc.call(call(api, id, pending.return_path().as_str(), limit)).await?;
    match timeout(limit, pending).await {
        Ok(result) => result.map(drop),
        Err(_) => Err(Error::timeout("no result came", limit)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_after_connections_were_closed() {
    let _one = ONE.lock().await;
    let Some(server) = broker().await else { return };
    let (caller, worker) = (process(&server), process(&server));
    let api = unique("auth");
    let flow = lightbus_core::FlowControl::new(10, 50);
    let spec = ServeSpec { apis: vec![api.as_str().into()], flow };
    let calls = soon(worker.rpc.serve(spec)).await.unwrap();
    let answers = answer(worker, calls);
    for round in 0..3 {
        let deadline = Instant::now() + LIMIT;
        let mut n = 0;
        // Every call ends, well or not, within its limit.
        while soon(call_once(&caller, &api, &format!("{round}-{n}"), Duration::from_secs(2)))
            .await
            .is_err()
        {
            assert!(Instant::now() < deadline, "calls never work again");
            n += 1;
        }
        server.ctl(&["close_all_connections", "a test"]).await;
    }
    answers.abort();
}

/// The two things of which a broker may run short.
const ALARMS: [(&str, &str, &str); 2] = [
    // A low watermark is an alarm at once; the usual one ends it.
    ("set_vm_memory_high_watermark", "0.00001", "0.4"),
    // More than any disk has.
    ("set_disk_free_limit", "900000GB", "50MB"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_lets_senders_wait_and_nothing_is_lost() {
    let _one = ONE.lock().await;
    let Some(server) = broker().await else { return };
    for (command, on, off) in ALARMS {
        alarm(&server, &[command, on], &[command, off]).await;
    }
}

async fn alarm(server: &RabbitServer, on: &[&str], off: &[&str]) {
    let options = json!({"url": server.url(), "response_timeout": 3});
    let process = Arc::new(transports(&options, json!({})));
    let api = unique("orders");
    let mut events = soon(process.event.listen(listen(&api, "one"))).await.unwrap();
    soon(process.event.send(&[event("before", &api)])).await.unwrap();
    server.ctl(on).await;

    // Within the limit, and with a reason, however many there are.
    let began = Instant::now();
    let failed = futures_util::future::join_all((0..20).map(|n| {
        let (process, api) = (Arc::clone(&process), api.clone());
        async move { process.event.send(&[event(&format!("blocked-{n}"), &api)]).await }
    }));
    for result in soon(failed).await {
        let error = result.expect_err("the broker takes nothing");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.is_temporary(), "{error:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    let error = soon(process.event.send(&[event("blocked", &api)])).await.unwrap_err();
    assert!(error.to_string().contains("alarm"), "{error}");
    assert_eq!(error.retryable(), Retry::Safe, "it was not sent: {error}");
    // A call has its own limit.
    let error = soon(call_once(&process, &api, "call", Duration::from_secs(1))).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");

    // Consumers go on: what they had is acknowledged on a connection that is not blocked.
    let before = soon(events.next()).await.unwrap().unwrap();
    assert_eq!(&*before.message.id, "before");
    soon(before.ack.settle(Outcome::Done)).await.unwrap();

    // One that waits gets through when the alarm is over.
    let waiting = {
        let (process, api) = (Arc::clone(&process), api.clone());
        tokio::spawn(async move {
            let deadline = Instant::now() + LIMIT;
            loop {
                match process.event.send(&[event("after", &api)]).await {
                    Ok(_) => return,
                    Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
                }
            }
        })
    };
    server.ctl(off).await;
    soon(waiting).await.unwrap();
    take_all(&mut events, ["after".to_owned()].into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_goes_on_without_one_of_its_three() {
    let _one = ONE.lock().await;
    let Some(mut nodes) = RabbitServer::start_cluster().await else { return };
    let urls: Vec<String> = nodes.iter().map(RabbitServer::url).collect();
    let others: Vec<String> =
        nodes[..2].iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    // The node that will be killed is among those that may be connected to.
    let options = json!({"url": urls[2], "nodes": others, "connect_timeout": 10});
    let process = Arc::new(transports(&options, json!({})));
    let api = unique("orders");
    let worker = Arc::new(transports(&options, json!({})));
    let flow = lightbus_core::FlowControl::new(10, 50);
    let served = unique("auth");
    let spec = ServeSpec { apis: vec![served.as_str().into()], flow };
    let calls = soon(worker.rpc.serve(spec)).await.unwrap();
    let answers = answer(worker, calls);
    soon(call_once(&process, &served, "before", LIMIT)).await.unwrap();
    fired_while(&process, listen(&api, "one"), async {
        nodes[2].can_be_missed().await;
        nodes[2].kill();
    })
    .await;
    let deadline = Instant::now() + LIMIT;
    let mut n = 0;
    while soon(call_once(&process, &served, &format!("after-{n}"), Duration::from_secs(2)))
        .await
        .is_err()
    {
        assert!(Instant::now() < deadline, "calls never work again");
        n += 1;
    }
    answers.abort();
}

/// A call that RabbitMQ has, whose result can no longer arrive: where it goes belongs to a channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_result_cannot_arrive_any_more_fails_at_once() {
    let _one = ONE.lock().await;
    let Some(server) = RabbitServer::start().await else { return };
    let process = on(&server);
    let api = unique("auth");
    let flow = lightbus_core::FlowControl::new(10, 10);
    let _calls = soon(process.rpc.serve(ServeSpec { apis: vec![api.as_str().into()], flow })).await;
    let minute = Duration::from_secs(60);
    let id = "1".into();
    let pending = soon(process.result.expect(&id)).await.unwrap();
    let path = pending.return_path().clone();
    soon(process.rpc.call(call(&api, &id, path.as_str(), minute))).await.unwrap();
    server.ctl(&["close_all_connections", "a test"]).await;
    let error = timeout(Duration::from_secs(20), pending).await.expect("at once").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.retryable(), Retry::MayDuplicate, "it may have run");
    let next = soon(process.result.expect(&"2".into())).await.unwrap();
    assert_ne!(*next.return_path(), path, "results of later calls go elsewhere");
}
