//! Processes that start at the same time, on a broker that has nothing yet.

use std::{collections::BTreeMap, time::Duration};

use crate::support::{Shared, event, listen, soon, transports, unique};
use futures_util::future::join_all;
use lightbus_core::{
    FlowControl, Result,
    conformance::Transports,
    transport::{GroupSpec, ListenSpec, ServeSpec, Start},
};
use lightbus_test_brokers::RabbitServer;
use serde_json::{json, value::RawValue};

fn process(url: &str) -> Transports {
    transports(&json!({"url": url}), json!({"history": {}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_that_start_in_the_past_at_once_all_start() {
    const PROCESSES: usize = 3;
    const EVENTS: usize = 500;
    let shared = Shared::new().await;
    let Some(url) = shared.url() else { return };
    let api = unique("shop");
    let sender = process(&url);
    let sent: Vec<_> = (0..EVENTS).map(|n| event(&n.to_string(), &api)).collect();
    soon(sender.event.send(&sent)).await.unwrap();
    let processes: Vec<_> = (0..PROCESSES).map(|_| process(&url)).collect();
    let started = processes.iter().enumerate().map(|(n, process)| {
        let spec = ListenSpec { start: Start::Earliest, ..listen(&api, &format!("process-{n}")) };
        process.event.listen(spec)
    });
    let events = soon(join_all(started)).await;
    let mut received: BTreeMap<String, usize> = BTreeMap::new();
    let mut taken = Vec::new();
    for events in events {
        let mut events = events.unwrap();
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        taken.push(receiver);
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = events.next().await {
                let _ = sender.send(delivery.message.id.to_string());
                delivery.ack.settle_later(lightbus_core::Outcome::Done);
            }
        });
    }
    let (all, mut ids) = tokio::sync::mpsc::unbounded_channel();
    for mut receiver in taken {
        let all = all.clone();
        tokio::spawn(async move {
            while let Some(id) = receiver.recv().await {
                let _ = all.send(id);
            }
        });
    }
    // What is fired last comes last.
    soon(sender.event.send(&[event("last", &api)])).await.unwrap();
    while received.len() <= EVENTS {
        *received.entry(soon(ids.recv()).await.unwrap()).or_default() += 1;
    }
    assert!(received.values().all(|count| *count == 1), "each came once: {received:?}");
}

/// All that a process declares when it starts.
async fn start(process: &Transports, n: usize) -> Result<()> {
    let schema = RawValue::from_string("{}".to_owned()).unwrap();
    process.schema.store(&format!("api-{n}"), &schema, Duration::from_secs(60)).await?;
    for api in ["shared".to_owned(), format!("api-{n}")] {
        let flow = FlowControl::new(1, 1);
        let calls = ServeSpec { apis: vec![api.as_str().into()], flow };
        std::mem::forget(process.rpc.serve(calls).await?);
        for group in ["shared".to_owned(), format!("group-{n}")] {
            let group = GroupSpec::new("shop", group);
            let spec = ListenSpec { group, ..listen(&api, &format!("process-{n}")) };
            drop(process.event.listen(spec).await?);
        }
        process.event.send(&[event(&n.to_string(), &api)]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_processes_start_at_once_on_an_empty_broker() {
    let Some(broker) = RabbitServer::start().await else { return };
    let processes: Vec<_> = (0..24).map(|_| process(&broker.url())).collect();
    let started = processes.iter().enumerate().map(|(n, process)| start(process, n));
    let mut failed: BTreeMap<String, usize> = BTreeMap::new();
    for error in soon(join_all(started)).await.into_iter().filter_map(Result::err) {
        *failed.entry(error.to_string()).or_default() += 1;
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
