//! What waits for one process, of all that waits for its group.

use std::time::Duration;

use lightbus_core::{
    FlowControl, TransportKind,
    conformance::Transports,
    transport::{EventSelector, ListenSpec, ServeSpec, Start},
};
use lightbus_test_brokers::{call, with};
use lightbus_transport_kafka::KafkaFactory;
use serde_json::{Value, json};

use crate::support::{brokers, event, eventually, listen, options, soon, transports, unique};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_has_nothing_waiting_in_partitions_of_others() {
    let Some(brokers) = brokers() else { return };
    let api = unique("share");
    let one = with(&options(&brokers), &json!({"partitions": 1}));
    let processes = [transports(&one, json!({})), transports(&one, json!({}))];
    let spec = |process: &str| ListenSpec {
        flow: FlowControl::new(1, 1),
        ..listen(&api, process, Start::New)
    };
    let mut first = soon(processes[0].event.listen(spec("first"))).await.unwrap();
    let mut second = soon(processes[1].event.listen(spec("second"))).await.unwrap();
    let events: Vec<_> = (0..10).map(|n| event(&api, &format!("e{n}"), None)).collect();
    soon(processes[0].event.send(&events)).await.unwrap();
    // Held, so that the others wait. Who has the partition is the group's decision.
    let (owner, _held) = tokio::select! {
        held = first.next() => (0, held),
        held = second.next() => (1, held),
    };
    let group = listen(&api, "any", Start::New).group;
    eventually("the owner, and it alone, has what waits for the group", async || {
        let all = [EventSelector::one(&*api, "opened")];
        let lag = processes[owner].event.lag(&group, &all).await.unwrap().waiting;
        let here = processes[owner].event.waiting_here(&spec("owner")).await.unwrap();
        let there = processes[1 - owner].event.waiting_here(&spec("other")).await.unwrap();
        lag > 0 && here == lag && there == 0
    })
    .await;
}

/// A process that keeps its partitions while it is busy.
fn worker(common: &Value) -> Transports {
    Transports::new(&KafkaFactory::default(), |kind| match kind {
        TransportKind::Rpc => with(common, &json!({"release_after": 0})),
        _ => common.clone(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_has_nothing_waiting_in_partitions_of_others() {
    let Some(brokers) = brokers() else { return };
    let api = unique("share");
    let one = with(&options(&brokers), &json!({"partitions": 1}));
    let processes = [worker(&one), worker(&one)];
    let serve = || ServeSpec { apis: vec![api.as_str().into()], flow: FlowControl::new(1, 1) };
    let mut first = soon(processes[0].rpc.serve(serve())).await.unwrap();
    let mut second = soon(processes[1].rpc.serve(serve())).await.unwrap();
    let caller = transports(&one, json!({}));
    let id = "1".into();
    let path = soon(caller.result.expect(&id)).await.unwrap().return_path().as_str().to_owned();
    for n in 0..10 {
        let call = call(&api, &format!("c{n}"), &path, Duration::from_secs(60));
        soon(caller.rpc.call(call)).await.unwrap();
    }
    // Held, so that the others wait.
    let (owner, _held) = tokio::select! {
        held = first.next() => (0, held),
        held = second.next() => (1, held),
    };
    eventually("the owner, and it alone, has calls waiting", async || {
        let all = caller.rpc.backlog(&api).await.unwrap();
        let here = processes[owner].rpc.backlog(&api).await.unwrap();
        let there = processes[1 - owner].rpc.backlog(&api).await.unwrap();
        all > 0 && here == all && there == 0
    })
    .await;
}
