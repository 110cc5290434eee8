//! What a process leaves behind when it ends in order.

use std::time::Duration;

use crate::support::{Redis, connect, event, eventually, listen, on, soon, with_events};
use lightbus_core::{Outcome, transport::Start};
use lightbus_test_brokers::RedisServer;
use serde_json::json;

const STREAM: &str = "shop.till.*:stream";
const GROUP: &str = "shop-greeter";

/// The group's consumers, each with how many events it holds.
async fn consumers(redis: &mut Redis) -> Vec<(String, i64)> {
    let consumers: Vec<std::collections::HashMap<String, redis::Value>> =
        redis.run(&["XINFO", "CONSUMERS", STREAM, GROUP]).await;
    let read = |consumer: std::collections::HashMap<String, redis::Value>| {
        let name = redis::from_redis_value(consumer["name"].clone()).unwrap();
        (name, redis::from_redis_value(consumer["pending"].clone()).unwrap())
    };
    consumers.into_iter().map(read).collect()
}

#[tokio::test]
async fn a_process_that_holds_nothing_leaves_its_group_but_the_last_one_keeps_it() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let process = on(&server);
    let mut running = Vec::new();
    for number in 0..30 {
        let spec = listen(&format!("p{number}"), Start::New);
        running.push(process.event.listen(spec).await.unwrap());
    }
    assert_eq!(consumers(&mut redis).await.len(), 30);
    for heard in running {
        soon(heard.close()).await.unwrap();
    }
    // Without a consumer, the group would be destroyed by the next listener in Python.
    assert_eq!(consumers(&mut redis).await, [("p29".to_owned(), 0)]);
    process.event.send(&[event("while nobody listens", "opened")]).await.unwrap();

    // One that holds something stays.
    let mut spec = listen("holding", Start::New);
    spec.flow.close_timeout = Duration::from_millis(10);
    let mut heard = process.event.listen(spec).await.unwrap();
    let delivery = soon(heard.next()).await.unwrap().unwrap();
    soon(heard.close()).await.unwrap();
    let mut left = consumers(&mut redis).await;
    left.sort();
    assert_eq!(left, [("holding".to_owned(), 1), ("p29".to_owned(), 0)]);
    drop(delivery);

    // `consumer_ttl: 0` removes nothing.
    let process = with_events(&server, json!({"consumer_ttl": 0}));
    let mut heard = process.event.listen(listen("keeps", Start::New)).await.unwrap();
    let delivery = soon(heard.next()).await.unwrap().unwrap();
    assert_eq!(&*delivery.message.id, "while nobody listens");
    delivery.ack.settle(Outcome::Done).await.unwrap();
    soon(heard.close()).await.unwrap();
    assert_eq!(consumers(&mut redis).await.len(), 3);
}

#[tokio::test]
async fn a_process_that_leaves_takes_nothing_from_a_new_one_of_its_name() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let other = on(&server);
    // Another consumer, so that none is the last one.
    let heard = other.event.listen(listen("other", Start::New)).await.unwrap();
    soon(heard.close()).await.unwrap();
    let mut running = on(&server).event.listen(listen("same", Start::New)).await.unwrap();
    for round in 0..20 {
        // The next one of its name starts before it ends, and events come all the time.
        let next = on(&server).event.listen(listen("same", Start::New)).await.unwrap();
        let many: Vec<_> =
            (0..20).map(|number| event(&format!("{round}/{number}"), "opened")).collect();
        let fired = tokio::join!(soon(running.close()), other.event.send(&many));
        fired.0.unwrap();
        fired.1.unwrap();
        running = next;
        let mut seen = std::collections::HashSet::new();
        while seen.len() < 20 {
            let delivery = soon(running.next()).await.unwrap().unwrap();
            seen.insert(delivery.message.id.to_string());
            delivery.ack.settle(Outcome::Done).await.unwrap();
        }
    }
    eventually("nothing is pending", || async {
        let mut redis = Redis(redis.0.clone());
        let pending: Vec<redis::Value> =
            redis.run(&["XPENDING", STREAM, GROUP, "-", "+", "10"]).await;
        pending.is_empty()
    })
    .await;
    soon(running.close()).await.unwrap();
    assert_eq!(consumers(&mut redis).await.len(), 1);
}
