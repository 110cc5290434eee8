//! A Redis that answers, and refuses to store anything.

use std::time::Duration;

use crate::{
    logs::Warnings,
    support::{Redis, connect, event, eventually, greeter, listen, on, soon, with_events},
};
use lightbus_core::{ErrorKind, FlowControl, Outcome, conformance::Transports, transport::Start};
use lightbus_test_brokers::RedisServer;
use serde_json::json;

const STREAM: &str = "shop.till.*:stream";
const GROUP: &str = "shop-greeter";
const REFUSES: &str = "Redis refuses dead letters";

async fn pending(redis: &Redis) -> usize {
    let mut redis = Redis(redis.0.clone());
    let pending: Vec<redis::Value> = redis.run(&["XPENDING", STREAM, GROUP, "-", "+", "100"]).await;
    pending.len()
}

async fn letters(process: &Transports) -> Vec<(String, String)> {
    let letters = process.dead_letters().list(&greeter(), None, 10).await.unwrap();
    letters.into_iter().map(|letter| (letter.event.id.to_string(), letter.reason)).collect()
}

#[tokio::test]
async fn a_rejected_event_waits_until_redis_has_memory() {
    let Some(server) = RedisServer::start() else { return };
    let warnings = Warnings::capture();
    let mut redis = connect(&server.url()).await;
    let process = with_events(&server, json!({"acknowledgement_timeout": 0.5}));
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    let many: Vec<_> = (0..4).map(|number| event(&number.to_string(), "opened")).collect();
    process.event.send(&many).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(soon(heard.next()).await.unwrap().unwrap());
    }
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let error = process.event.send(&[event("more", "opened")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    for (index, delivery) in held.into_iter().enumerate() {
        let outcome = if index == 1 { Outcome::Reject("it broke".into()) } else { Outcome::Done };
        soon(delivery.ack.settle(outcome)).await.unwrap();
    }
    // The others are done, and it is said what happens to the one.
    assert_eq!(pending(&redis).await, 1);
    let said = warnings.with(REFUSES);
    assert!(
        said.len() == 1 && said[0].contains("OOM") && said[0].contains("waiting=1"),
        "{said:?}"
    );
    // It stays with this process, and is not handled again.
    let other = with_events(&server, json!({"acknowledgement_timeout": 0.5}));
    let again = tokio::time::timeout(Duration::from_millis(1500), heard.next()).await;
    assert!(again.is_err(), "it was redelivered");
    assert_eq!(letters(&process).await, []);
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("it is dead-lettered", || async { pending(&redis).await == 0 }).await;
    assert_eq!(letters(&process).await, [("1".to_owned(), "it broke".to_owned())]);
    assert_eq!(warnings.with(REFUSES).len(), 1);

    // A process that ends meanwhile leaves it to others.
    process.event.send(&[event("last", "opened")]).await.unwrap();
    let delivery = soon(heard.next()).await.unwrap().unwrap();
    let mut second = other.event.listen(listen("p2", Start::New)).await.unwrap();
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    soon(delivery.ack.settle(Outcome::Reject("it broke".into()))).await.unwrap();
    soon(heard.close()).await.unwrap();
    let delivery = soon(second.next()).await.unwrap().unwrap();
    assert_eq!((&*delivery.message.id, delivery.message.attempt), ("last", 2));
    delivery.ack.settle(Outcome::Done).await.unwrap();
    assert_eq!(pending(&redis).await, 0);
}

#[tokio::test]
async fn an_event_that_cannot_be_read_holds_up_nothing_while_redis_has_no_memory() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let process = on(&server);
    let mut spec = listen("p1", Start::New);
    spec.flow = FlowControl::new(1, 1);
    let mut heard = process.event.listen(spec).await.unwrap();
    process.event.send(&[event("first", "opened")]).await.unwrap();
    let delivery = soon(heard.next()).await.unwrap().unwrap();
    let broken = ["id", "bad", "api_name", "shop.till", "event_name", "opened", "version", "x"];
    let _: String = redis.run(&[&["XADD", STREAM, "*"], &broken[..]].concat()).await;
    process.event.send(&[event("second", "opened")]).await.unwrap();
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "1"]).await;
    delivery.ack.settle(Outcome::Done).await.unwrap();
    let delivery = soon(heard.next()).await.unwrap().unwrap();
    assert_eq!(&*delivery.message.id, "second");
    delivery.ack.settle(Outcome::Done).await.unwrap();
    assert_eq!(pending(&redis).await, 1);
    let _: () = redis.run(&["CONFIG", "SET", "maxmemory", "0"]).await;
    eventually("it is dead-lettered", || async { pending(&redis).await == 0 }).await;
    let letters = letters(&process).await;
    assert!(letters.len() == 1 && letters[0].0 == "bad", "{letters:?}");
}

#[tokio::test]
async fn what_a_redis_refuses_altogether_is_settled_when_it_takes_writes_again() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let process = on(&server);
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    for (round, (refuse, allow)) in [
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"][..],
            &["CONFIG", "SET", "min-replicas-to-write", "0"][..],
        ),
        (&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]),
    ]
    .into_iter()
    .enumerate()
    {
        let ids = [format!("{round}/rejected"), format!("{round}/done")];
        let many = ids.each_ref().map(|id| event(id, "opened"));
        process.event.send(&many).await.unwrap();
        let rejected = soon(heard.next()).await.unwrap().unwrap();
        let done = soon(heard.next()).await.unwrap().unwrap();
        let _: redis::Value = redis.run(refuse).await;
        let settled = tokio::spawn(async move {
            rejected.ack.settle(Outcome::Reject("it broke".into())).await.unwrap();
            done.ack.settle(Outcome::Done).await.unwrap();
        });
        eventually("the broker refuses", || async {
            process.event.send(&[event("more", "closed")]).await.is_err()
        })
        .await;
        let _: redis::Value = redis.run(allow).await;
        soon(settled).await.unwrap();
        eventually("all is settled", || async { pending(&redis).await == 0 }).await;
        let letters = letters(&process).await;
        assert!(letters.len() == round + 1 && letters[round].0 == ids[0], "{letters:?}");
    }
}
