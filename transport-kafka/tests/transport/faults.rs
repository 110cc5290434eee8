//! What holds when brokers die and workers come and go: nothing that was confirmed is lost, the order
//! of each key is kept, and no call runs twice.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::support::{
    LIMIT, brokers, call, event, eventually, listen, on, options, soon, transports, unique,
};
use lightbus_core::conformance::Transports;
use lightbus_core::{
    Delivery, EventMessage, FlowControl, Outcome, ResultMessage,
    transport::{ListenSpec, ServeSpec, Start},
};
use lightbus_test_brokers::KafkaServer;
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// Fires numbered events of each key until it is told to stop, each again until it is confirmed.
/// Gives how many of each key there are.
async fn fire(
    process: Arc<Transports>,
    api: String,
    stop: Arc<AtomicBool>,
) -> HashMap<String, usize> {
    let mut tasks = JoinSet::new();
    for key in KEYS {
        let (process, api, stop) = (Arc::clone(&process), api.clone(), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                let event = event(&api, &format!("{key}-{n}"), Some(key));
                let began = Instant::now();
                while let Err(error) = process.event.send(std::slice::from_ref(&event)).await {
                    assert!(error.is_temporary(), "an error that does not pass: {error:?}");
                    assert!(began.elapsed() < LIMIT, "never confirmed: {error:?}");
                }
                n += 1;
                // So that all the time of the test is covered, by a bounded number of events.
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            (key.to_owned(), n)
        });
    }
    tasks.join_all().await.into_iter().collect()
}

/// What listeners have handled, in order.
#[derive(Clone, Default)]
struct Handled(Arc<Mutex<HashMap<String, Vec<usize>>>>);

impl Handled {
    fn note(&self, message: &EventMessage) {
        let (key, n) = message.id.split_once('-').unwrap();
        self.0.lock().unwrap().entry(key.to_owned()).or_default().push(n.parse().unwrap());
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap().values().map(Vec::len).sum()
    }

    /// Each was handled, and first ones in their order. Gives how many came more than once.
    fn check(&self, fired: &HashMap<String, usize>) -> Result<usize, String> {
        let handled = self.0.lock().unwrap();
        let mut again = 0;
        for (key, count) in fired {
            let of_key = handled.get(key).map(Vec::as_slice).unwrap_or_default();
            let mut next = 0;
            for n in of_key {
                match n {
                    n if *n == next => next += 1,
                    n if *n < next => again += 1,
                    n => return Err(format!("of {key}, {n} came before {next}")),
                }
            }
            if next != *count {
                return Err(format!("of {key}, {next} of {count} came"));
            }
        }
        Ok(again)
    }
}

async fn handle(delivery: Delivery<EventMessage>, handled: &Handled) {
    // Another process may have it by now.
    let Some(delivery) = delivery.begin().await else { return };
    handled.note(&delivery.message);
    delivery.ack.settle_later(Outcome::Done);
}

/// Listens until it is dropped.
async fn keep_listening(process: Arc<Transports>, spec: ListenSpec, handled: Handled) {
    let mut events = process.event.listen(spec).await.unwrap();
    while let Some(delivery) = events.next().await {
        handle(delivery.unwrap(), &handled).await;
    }
}

async fn all_came(handled: &Handled, fired: &HashMap<String, usize>) -> usize {
    eventually("all that was confirmed is handled", async || handled.check(fired).is_ok()).await;
    handled.check(fired).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_the_broker_is_killed_and_started() {
    let Some(mut server) = KafkaServer::start().await else { return };
    let api = unique("orders");
    let process = |brokers: &str| Arc::new(on(brokers));
    let handled = Handled::default();
    let mut listening = JoinSet::new();
    let spec = listen(&api, "one", Start::Earliest);
    listening.spawn(keep_listening(process(&server.brokers()), spec, handled.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let fired = tokio::spawn(fire(process(&server.brokers()), api.clone(), Arc::clone(&stop)));
    for _ in 0..2 {
        let before = handled.count();
        eventually("events flow", async || handled.count() > before + 50).await;
        server.kill();
        server.launch();
        server.await_started().await;
    }
    let before = handled.count();
    eventually("events flow again", async || handled.count() > before + 50).await;
    stop.store(true, Ordering::Relaxed);
    let fired = soon(fired).await.unwrap();
    let again = all_came(&handled, &fired).await;
    println!("{fired:?}, {again} more than once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_one_of_three_brokers_is_killed() {
    let Some(mut servers) = KafkaServer::start_cluster(3).await else { return };
    let api = unique("orders");
    let brokers: Vec<_> = servers.iter().map(KafkaServer::brokers).collect();
    let mut address = options(&brokers.join(","));
    address["replication"] = json!(3);
    address["min_insync_replicas"] = json!(2);
    let process = || Arc::new(transports(&address, json!({})));
    let handled = Handled::default();
    let mut listening = JoinSet::new();
    for name in ["one", "two"] {
        let spec = listen(&api, name, Start::Earliest);
        listening.spawn(keep_listening(process(), spec, handled.clone()));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let fired = tokio::spawn(fire(process(), api.clone(), Arc::clone(&stop)));
    for victim in servers.iter_mut().take(2) {
        let before = handled.count();
        eventually("events flow", async || handled.count() > before + 50).await;
        victim.kill();
        let before = handled.count();
        eventually("events flow with two brokers", async || handled.count() > before + 50).await;
        victim.launch();
        victim.await_started().await;
    }
    stop.store(true, Ordering::Relaxed);
    let fired = soon(fired).await.unwrap();
    let again = all_came(&handled, &fired).await;
    println!("{fired:?}, {again} more than once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_out_of_order_in_a_rebalance_storm() {
    let Some(brokers) = brokers() else { return };
    let api = unique("orders");
    let process = || Arc::new(on(&brokers));
    let handled = Handled::default();
    // The group is there before the first event is.
    let first = process().event.listen(listen(&api, "first", Start::New)).await.unwrap();
    soon(first.close()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let fired = tokio::spawn(fire(process(), api.clone(), Arc::clone(&stop)));
    let mut workers = JoinSet::new();
    let mut spawn = |number: usize, stays: Duration| {
        let (process, handled) = (process(), handled.clone());
        let spec = ListenSpec {
            flow: FlowControl::new(10, 20),
            ..listen(&api, &format!("worker-{number}"), Start::New)
        };
        workers.spawn(async move {
            let mut events = process.event.listen(spec).await.unwrap();
            let until = Instant::now() + stays;
            while let Ok(Some(delivery)) = tokio::time::timeout_at(until, events.next()).await {
                let Some(delivery) = delivery.unwrap().begin().await else { continue };
                handled.note(&delivery.message);
                // Handling takes its time, so that something is always in somebody's hands.
                tokio::time::sleep(Duration::from_millis(1)).await;
                delivery.ack.settle_later(Outcome::Done);
            }
            events.close().await.unwrap();
        });
    };
    spawn(0, Duration::from_secs(12));
    // Each second one comes, and stays for a bit more than two.
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    for number in 1..=10 {
        seconds.tick().await;
        spawn(number, Duration::from_millis(2300));
    }
    seconds.tick().await;
    stop.store(true, Ordering::Relaxed);
    let fired = soon(fired).await.unwrap();
    soon(workers.join_all()).await;
    // One more takes what is left.
    let mut rest = JoinSet::new();
    rest.spawn(keep_listening(process(), listen(&api, "last", Start::New), handled.clone()));
    let again = all_came(&handled, &fired).await;
    println!("{fired:?}, {again} more than once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_runs_twice_while_workers_come_and_go() {
    let Some(brokers) = brokers() else { return };
    let api = unique("auth");
    let ran: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let serve = async |number: usize| {
        let process = Arc::new(on(&brokers));
        let spec = ServeSpec { apis: vec![api.as_str().into()], flow: FlowControl::new(10, 20) };
        let mut calls = process.rpc.serve(spec).await.unwrap();
        let ran = Arc::clone(&ran);
        let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            loop {
                let delivery = tokio::select! {
                    delivery = calls.next() => delivery.unwrap().unwrap(),
                    _ = &mut stopped => break,
                };
                let message = Arc::clone(&delivery.message);
                *ran.lock().unwrap().entry(message.id.to_string()).or_default() += 1;
                let result = ResultMessage {
                    id: format!("{}-{number}", message.id).into(),
                    rpc_id: Arc::clone(&message.id),
                    headers: Default::default(),
                    body: Ok("1".into()),
                };
                process.result.reply(&message.return_path, result).await.unwrap();
                delivery.ack.settle_later(Outcome::Done);
            }
            calls.close().await.unwrap();
        });
        (stop, task)
    };
    let caller = Arc::new(on(&brokers));
    let (answered, number) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let done = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let (caller, api, number) = (Arc::clone(&caller), api.clone(), Arc::clone(&number));
        let (answered, done) = (Arc::clone(&answered), Arc::clone(&done));
        callers.spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let id = format!("call-{}", number.fetch_add(1, Ordering::Relaxed));
                let pending = caller.result.expect(&id.as_str().into()).await.unwrap();
                let path = pending.return_path().as_str().to_owned();
                let patience = Duration::from_secs(10);
                caller.rpc.call(call(&api, &id, &path, patience)).await.unwrap();
                if tokio::time::timeout(patience, pending).await.is_ok() {
                    answered.fetch_add(1, Ordering::Relaxed);
                } else {
                    println!("no answer to {id}");
                }
            }
        });
    }
    let mut workers = vec![serve(0).await];
    for round in 1..8 {
        let before = answered.load(Ordering::Relaxed);
        workers.push(serve(round).await);
        if workers.len() > 2 {
            let (stop, task) = workers.remove(0);
            drop(stop);
            soon(task).await.unwrap();
        }
        eventually("calls are answered", async || answered.load(Ordering::Relaxed) > before + 50)
            .await;
    }
    done.store(true, Ordering::Relaxed);
    soon(callers.join_all()).await;
    for (id, times) in ran.lock().unwrap().iter() {
        assert_eq!(*times, 1, "{id} ran {times} times");
    }
    let (sent, answered) = (number.load(Ordering::Relaxed), answered.load(Ordering::Relaxed));
    println!("{answered} of {sent} calls were answered");
    assert_eq!(ran.lock().unwrap().len(), answered, "who ran has answered");
    assert_eq!(sent, answered, "workers that leave give back what they have not begun");
}
