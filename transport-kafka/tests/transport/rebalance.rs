//! What waits in a process when its partitions move to another: dropped there, handled here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::support::{brokers, event, eventually, listen, options, soon, transports, unique};
use lightbus_core::{
    Outcome,
    conformance::Transports,
    transport::{ListenSpec, Start},
};
use serde_json::json;
use tokio::{task::JoinSet, time::Instant};

const EVENTS: usize = 400;

/// Which process handled each event, in the order in which they were.
type Handled = Arc<Mutex<Vec<(usize, String)>>>;

/// Fires events of many keys, so that each partition has its part of them.
async fn fire(process: &Transports, api: &str) {
    let events: Vec<_> =
        (0..EVENTS).map(|n| event(api, &n.to_string(), Some(&format!("key-{n}")))).collect();
    soon(process.event.send(&events)).await.unwrap();
}

/// Handles one event after the other, each so long, until it is dropped. What is taken ahead waits.
async fn handle_slowly(
    process: usize,
    on: Transports,
    spec: ListenSpec,
    each: Duration,
    handled: Handled,
) {
    let mut events = on.event.listen(spec).await.unwrap();
    while let Some(delivery) = events.next().await {
        let Some(delivery) = delivery.unwrap().begin().await else { continue };
        tokio::time::sleep(each).await;
        handled.lock().unwrap().push((process, delivery.message.id.to_string()));
        delivery.ack.settle_later(Outcome::Done);
    }
}

/// A process has taken all events and handled a few when another joins it. Returns what each handled,
/// and how long the newcomer waited for its first event.
async fn join_while_hundreds_wait(
    revoke_timeout: u64,
    each: Duration,
) -> Option<(Vec<(usize, String)>, Duration)> {
    let brokers = brokers()?;
    let api = unique("orders");
    let process = || transports(&options(&brokers), json!({"revoke_timeout": revoke_timeout}));
    let handled = Handled::default();
    let mut running = JoinSet::new();
    let first = process();
    let spec = listen(&api, "first", Start::Earliest);
    // The topic is there before the group is.
    soon(soon(first.event.listen(spec.clone())).await.unwrap().close()).await.unwrap();
    fire(&first, &api).await;
    running.spawn(handle_slowly(1, first, spec, each, Arc::clone(&handled)));
    eventually("a few are handled", async || handled.lock().unwrap().len() >= 10).await;
    let joined = Instant::now();
    let spec = listen(&api, "second", Start::Earliest);
    running.spawn(handle_slowly(2, process(), spec, each, Arc::clone(&handled)));
    let of_second = async || handled.lock().unwrap().iter().any(|(process, _)| *process == 2);
    eventually("the newcomer has its first", of_second).await;
    let waited = joined.elapsed();
    let all = async || {
        let handled = handled.lock().unwrap();
        let different: HashMap<_, _> = handled.iter().map(|(process, id)| (id, process)).collect();
        different.len() == EVENTS
    };
    eventually("all are handled", all).await;
    let handled = handled.lock().unwrap().clone();
    Some((handled, waited))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_begun_when_its_partition_moved_is_handled_once() {
    // Less than the first process would need for all that it has taken.
    let Some((handled, _)) = join_while_hundreds_wait(1, Duration::from_millis(20)).await else {
        return;
    };
    let mut times: HashMap<&str, usize> = HashMap::new();
    for (_, id) in &handled {
        *times.entry(id).or_default() += 1;
    }
    let again: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(again.is_empty(), "handled again: {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_has_its_share_of_what_was_not_begun() {
    // Longer than the whole backlog takes.
    let each = Duration::from_millis(20);
    let Some((handled, waited)) = join_while_hundreds_wait(60, each).await else { return };
    let share = handled.iter().filter(|(process, _)| *process == 2).count();
    println!("the newcomer handled {share} of {EVENTS}, the first after {waited:?}");
    assert!(share >= EVENTS / 4, "the newcomer handled {share} of {EVENTS}");
    assert!(waited < each * 200, "the newcomer waited {waited:?} for its first event");
}
