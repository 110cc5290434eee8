//! What waits for one process, of all that waits for its group.

use lightbus_core::{
    FlowControl,
    transport::{EventSelector, ListenSpec, Start},
};
use lightbus_test_brokers::with;
use serde_json::json;

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
