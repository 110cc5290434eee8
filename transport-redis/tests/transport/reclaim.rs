//! How entries are taken over from processes that are gone.

use std::time::Duration;

use crate::support::{connect, event, listen, soon, with_events};
use lightbus_core::{FlowControl, Outcome, transport::Start};
use lightbus_test_brokers::RedisServer;
use serde_json::json;
use tokio::time::Instant;

const STREAM: &str = "shop.till.*:stream";
const GROUP: &str = "shop-greeter";

#[tokio::test]
async fn an_abandoned_event_behind_many_pending_ones_is_taken_over() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let process = with_events(&server, json!({"acknowledgement_timeout": 60}));
    // One at a time, as a listener of concurrency 1 takes them.
    let mut spec = listen("idle", Start::New);
    spec.flow = FlowControl::new(1, 1);
    let heard = process.event.listen(spec).await.unwrap();
    let _: i64 = redis.run(&["XGROUP", "CREATECONSUMER", STREAM, GROUP, "busy"]).await;
    soon(heard.close()).await.unwrap();
    let mut ids = Vec::new();
    for page in 0..7 {
        let many: Vec<_> =
            (0..1000).map(|number| event(&format!("{page}/{number}"), "opened")).collect();
        ids.extend(process.event.send(&many).await.unwrap());
    }
    let _: redis::Value = redis
        .run(&["XREADGROUP", "GROUP", GROUP, "busy", "COUNT", "10000", "STREAMS", STREAM, ">"])
        .await;
    let last = ids.last().unwrap();
    let claim = ["XCLAIM", STREAM, GROUP, "busy", "0", last, "IDLE", "61000", "JUSTID"];
    let _: Vec<String> = redis.run(&claim).await;
    let mut spec = listen("idle", Start::New);
    spec.flow = FlowControl::new(1, 1);
    let before = Instant::now();
    let mut heard = process.event.listen(spec).await.unwrap();
    let delivery = soon(heard.next()).await.unwrap().unwrap();
    assert!(before.elapsed() < Duration::from_secs(30), "{:?}", before.elapsed());
    assert_eq!(&*delivery.message.id, "6/999");
    delivery.ack.settle(Outcome::Done).await.unwrap();
    // The others were left to their process, and no look has counted as a delivery.
    let pending: Vec<(String, String, u64, u64)> =
        redis.run(&["XPENDING", STREAM, GROUP, "-", "+", "10000"]).await;
    assert_eq!(pending.len(), 6999);
    assert!(pending.iter().all(|(_, consumer, _, count)| consumer == "busy" && *count == 1));
}

#[tokio::test]
async fn all_that_a_dead_process_held_is_taken_over_however_it_is_spread() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let options = json!({"acknowledgement_timeout": 60, "reclaim_batch_size": 20});
    let process = with_events(&server, options);
    let heard = process.event.listen(listen("first", Start::New)).await.unwrap();
    soon(heard.close()).await.unwrap();
    let many: Vec<_> = (0..300).map(|number| event(&number.to_string(), "opened")).collect();
    let ids = process.event.send(&many).await.unwrap();
    let _: redis::Value = redis
        .run(&["XREADGROUP", "GROUP", GROUP, "busy", "COUNT", "10000", "STREAMS", STREAM, ">"])
        .await;
    let abandoned: Vec<usize> = (0..300).filter(|number| number % 29 == 7).collect();
    for number in &abandoned {
        let id = &*ids[*number];
        let claim = ["XCLAIM", STREAM, GROUP, "dead", "0", id, "IDLE", "61000", "JUSTID"];
        let _: Vec<String> = redis.run(&claim).await;
    }
    let mut spec = listen("idle", Start::New);
    spec.flow = FlowControl::new(2, 2);
    let mut heard = process.event.listen(spec).await.unwrap();
    let mut seen = Vec::new();
    for _ in &abandoned {
        let delivery = soon(heard.next()).await.unwrap().unwrap();
        seen.push(delivery.message.id.parse::<usize>().unwrap());
        delivery.ack.settle(Outcome::Done).await.unwrap();
    }
    seen.sort_unstable();
    assert_eq!(seen, abandoned);
}
