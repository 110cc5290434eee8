//! Calls that nobody has taken in time.

use std::time::Duration;

use crate::support::{Redis, call, connect, eventually, on, soon};
use lightbus_core::{
    FlowControl, Outcome, RpcMessage, Subscription, conformance::Transports, transport::ServeSpec,
};
use lightbus_test_brokers::RedisServer;
use tokio::time::Instant;

const QUEUE: &str = "shop.till:rpc_queue";

fn python_call(id: &str) -> String {
    format!(
        r#"{{"kwargs": {{"a": 1}}, "metadata": {{"api_name": "shop.till", "id": "{id}", "procedure_name": "add", "return_path": "redis+key://back"}}}}"#
    )
}

/// Queues calls of Python whose callers have given up.
async fn queue_expired(redis: &mut Redis, count: usize) {
    for page in (0..count).step_by(1000) {
        let mut push = redis::cmd("RPUSH");
        push.arg(QUEUE);
        for number in page..count.min(page + 1000) {
            push.arg(python_call(&format!("expired-{number}")));
        }
        let _: i64 = push.query_async(&mut redis.0).await.unwrap();
    }
}

/// Queues a call of Python.
async fn queue(redis: &mut Redis, id: &str) {
    let _: () = redis.run(&["SET", &format!("rpc_expiry_key:{id}"), "1", "EX", "60"]).await;
    let _: i64 = redis.run(&["RPUSH", QUEUE, &python_call(id)]).await;
}

async fn length(redis: &Redis) -> usize {
    Redis(redis.0.clone()).run(&["LLEN", QUEUE]).await
}

async fn send(process: &Transports, id: &str, left: Duration) {
    process.rpc.call(call("shop.till", id, "redis+key://back", left)).await.unwrap();
}

async fn serve(process: &Transports) -> Subscription<RpcMessage> {
    let flow = FlowControl::new(1, 1);
    process.rpc.serve(ServeSpec { apis: vec!["shop.till".into()], flow }).await.unwrap()
}

#[tokio::test]
async fn callers_remove_expired_calls_that_no_worker_takes() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let process = std::sync::Arc::new(on(&server));
    let mut sent = tokio::task::JoinSet::new();
    for number in 0..3000 {
        let process = std::sync::Arc::clone(&process);
        sent.spawn(async move {
            send(&process, &format!("c{number}"), Duration::from_secs(60)).await;
        });
    }
    sent.join_all().await;
    assert_eq!(length(&redis).await, 3000);
    // Their callers give up.
    let mut expire = redis::cmd("DEL");
    for number in 0..3000 {
        expire.arg(format!("rpc_expiry_key:c{number}"));
    }
    let _: i64 = expire.query_async(&mut redis.0).await.unwrap();
    let mut round = 0;
    while length(&redis).await > 100 {
        send(&process, &format!("live-{round}"), Duration::from_secs(60)).await;
        round += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(round < 60, "{} calls are left", length(&redis).await);
    }
    // None that lives was removed.
    let left: Vec<String> = redis.run(&["LRANGE", QUEUE, "0", "-1"]).await;
    assert_eq!(left.iter().filter(|call| call.contains("live-")).count(), round);
}

#[tokio::test]
async fn calls_that_live_are_left_alone_wherever_they_are() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let process = on(&server);
    queue_expired(&mut redis, 500).await;
    queue(&mut redis, "first").await;
    queue_expired(&mut redis, 500).await;
    queue(&mut redis, "second").await;
    let sent = Instant::now();
    send(&process, "third", Duration::from_secs(60)).await;
    eventually("the first ones are removed", || async { length(&redis).await == 503 }).await;
    let head: String = redis.run(&["LINDEX", QUEUE, "0"]).await;
    assert!(head.contains("first"), "{head}");
    // One that cannot be read is left to workers, which answer it.
    let _: i64 = redis.run(&["LPUSH", QUEUE, "{"]).await;
    tokio::time::sleep_until(sent + Duration::from_millis(1100)).await;
    send(&process, "fourth", Duration::from_secs(60)).await;
    let mut calls = serve(&process).await;
    for id in ["first", "second", "third", "fourth"] {
        let delivery = soon(calls.next()).await.unwrap().unwrap();
        assert_eq!(&*delivery.message.id, id);
        delivery.ack.settle(Outcome::Done).await.unwrap();
    }
    eventually("the queue is empty", || async { length(&redis).await == 0 }).await;
}

#[tokio::test]
async fn a_worker_gets_past_many_expired_calls_at_once() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let process = on(&server);
    queue_expired(&mut redis, 100_000).await;
    queue(&mut redis, "live").await;
    // Several workers do not get into each other's way.
    let other = on(&server);
    let (mut one, mut two) = (serve(&process).await, serve(&other).await);
    let delivery = soon(async {
        tokio::select! {
            delivery = one.next() => delivery,
            delivery = two.next() => delivery,
        }
    })
    .await
    .unwrap()
    .unwrap();
    let stats: String = redis.run(&["INFO", "commandstats"]).await;
    let pops = stats.split("cmdstat_blmpop:calls=").nth(1).unwrap();
    let pops: u64 = pops.split(',').next().unwrap().parse().unwrap();
    assert!(pops < 1000, "they were taken {pops} times");
    assert_eq!(&*delivery.message.id, "live");
    delivery.ack.settle(Outcome::Done).await.unwrap();
    eventually("the queue is empty", || async { length(&redis).await == 0 }).await;
}
