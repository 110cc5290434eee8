//! Events that are trimmed or deleted before they are handled.

use std::time::Duration;

use crate::{
    logs::Warnings,
    support::{Redis, connect, event, eventually, greeter, listen, on, soon, with_events},
};
use lightbus_core::{
    FlowControl, Outcome,
    conformance::Transports,
    transport::{EventSelector, Lag, Start},
};
use lightbus_test_brokers::RedisServer;
use serde_json::json;

const STREAM: &str = "shop.till.*:stream";
const GROUP: &str = "shop-greeter";
const UNREAD: &str = "before the listener had read them";
const PENDING: &str = "pending events were trimmed or deleted";

async fn fire(process: &Transports, ids: std::ops::Range<usize>) {
    for start in ids.clone().step_by(100) {
        let page = start..ids.end.min(start + 100);
        let many: Vec<_> = page.map(|number| event(&number.to_string(), "opened")).collect();
        process.event.send(&many).await.unwrap();
    }
}

async fn lag(process: &Transports) -> Lag {
    let opened = [EventSelector::one("shop.till", "opened")];
    process.event.lag(&greeter(), &opened).await.unwrap()
}

async fn pending(redis: &mut Redis) -> Vec<(String, String, u64, u64)> {
    redis.run(&["XPENDING", STREAM, GROUP, "-", "+", "100"]).await
}

#[tokio::test]
async fn events_that_were_trimmed_before_they_were_read_are_reported() {
    let Some(server) = RedisServer::start() else { return };
    let warnings = Warnings::capture();
    let mut redis = connect(&server.url()).await;
    let process = with_events(&server, json!({"max_stream_length": 100}));
    let heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    soon(heard.close()).await.unwrap();
    fire(&process, 0..1000).await;
    let kept: usize = redis.run(&["XLEN", STREAM]).await;
    assert!(kept < 300, "{kept}");
    assert_eq!(lag(&process).await.waiting, kept as u64);
    assert_eq!(warnings.with(UNREAD), [""; 0]);
    // Two processes: one of them says so.
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    let other = on(&server);
    let idle = other.event.listen(listen("p2", Start::New)).await.unwrap();
    let first = soon(heard.next()).await.unwrap().unwrap();
    first.ack.settle(Outcome::Done).await.unwrap();
    soon(idle.close()).await.unwrap();
    let mut last = first.message.id.parse::<usize>().unwrap();
    while last != 999 {
        let delivery = soon(heard.next()).await.unwrap().unwrap();
        last = delivery.message.id.parse().unwrap();
        delivery.ack.settle(Outcome::Done).await.unwrap();
    }
    assert_eq!(warnings.sum(UNREAD, "lost"), 1000 - kept);
    assert_eq!(warnings.with(UNREAD).len(), 1);
    eventually("nothing waits", || async { lag(&process).await == Lag::default() }).await;
    // Nothing more is lost, and nothing more is said.
    fire(&process, 1000..1050).await;
    for _ in 0..50 {
        soon(heard.next()).await.unwrap().unwrap().ack.settle(Outcome::Done).await.unwrap();
    }
    eventually("nothing waits", || async { lag(&process).await == Lag::default() }).await;
    assert_eq!(warnings.with(UNREAD).len(), 1);
}

#[tokio::test]
async fn a_listener_that_is_overtaken_while_it_runs_says_how_many_are_lost() {
    let Some(server) = RedisServer::start() else { return };
    let warnings = Warnings::capture();
    let mut redis = connect(&server.url()).await;
    let process = with_events(&server, json!({"max_stream_length": 100}));
    let mut spec = listen("p1", Start::New);
    spec.flow = FlowControl::new(1, 1);
    let mut heard = process.event.listen(spec).await.unwrap();
    fire(&process, 0..1).await;
    let held = soon(heard.next()).await.unwrap().unwrap();
    fire(&process, 1..1000).await;
    // Long enough for the next check to be due.
    tokio::time::sleep(Duration::from_millis(120)).await;
    let kept: usize = redis.run(&["XLEN", STREAM]).await;
    assert_eq!(lag(&process).await.waiting, kept as u64);
    held.ack.settle(Outcome::Done).await.unwrap();
    for count in 1..=kept {
        let delivery = soon(heard.next()).await.unwrap().unwrap();
        delivery.ack.settle(Outcome::Done).await.unwrap();
        if count == kept / 2 {
            // In the middle of what is left, too.
            eventually("the lag is right", || async {
                let Lag { waiting, pending, .. } = lag(&process).await;
                waiting + pending == (kept - count) as u64
            })
            .await;
        }
    }
    eventually("nothing waits", || async { lag(&process).await == Lag::default() }).await;
    eventually("it is reported", || async { !warnings.with(UNREAD).is_empty() }).await;
    assert_eq!(warnings.sum(UNREAD, "lost"), 999 - kept);
}

#[tokio::test]
async fn pending_events_that_were_deleted_are_reported() {
    let Some(server) = RedisServer::start() else { return };
    let warnings = Warnings::capture();
    let mut redis = connect(&server.url()).await;
    let process = on(&server);
    let heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    soon(heard.close()).await.unwrap();
    let many: Vec<_> = (0..6).map(|number| event(&number.to_string(), "opened")).collect();
    let ids = process.event.send(&many).await.unwrap();
    for consumer in ["p1", "dead"] {
        let read = ["XREADGROUP", "GROUP", GROUP, consumer, "COUNT", "3", "STREAMS", STREAM, ">"];
        let _: redis::Value = redis.run(&read).await;
    }
    for id in &ids[3..] {
        let claim = ["XCLAIM", STREAM, GROUP, "dead", "0", id, "IDLE", "61000", "JUSTID"];
        let _: Vec<String> = redis.run(&claim).await;
    }
    // One of its own, and two of another that is dead.
    for index in [1, 3, 4] {
        let _: u64 = redis.run(&["XDEL", STREAM, &ids[index]]).await;
    }
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = soon(heard.next()).await.unwrap().unwrap();
        seen.push(delivery.message.id.to_string());
        delivery.ack.settle(Outcome::Done).await.unwrap();
    }
    assert_eq!(seen, ["0", "2", "5"]);
    eventually("nothing is pending", || async {
        pending(&mut Redis(redis.0.clone())).await.is_empty()
    })
    .await;
    // The first at once, the others a minute later or at the end.
    assert_eq!(warnings.sum(PENDING, "lost"), 1);
    soon(heard.close()).await.unwrap();
    assert_eq!(warnings.sum(PENDING, "lost"), 3);
    assert_eq!(warnings.with(PENDING).len(), 2);
    assert_eq!(lag(&process).await, Lag::default());
}

#[tokio::test]
async fn a_held_event_that_was_trimmed_becomes_a_dead_letter_with_its_fields() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let process = on(&server);
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    for (index, dropped) in [false, true].into_iter().enumerate() {
        let mut fired = event(&index.to_string(), "opened");
        fired.headers.set("traceparent", "00-1");
        process.event.send(std::slice::from_ref(&fired)).await.unwrap();
        let delivery = soon(heard.next()).await.unwrap().unwrap();
        let _: u64 = redis.run(&["XTRIM", STREAM, "MAXLEN", "0"]).await;
        if dropped {
            // Another process looks for abandoned entries, by which Redis drops this one from the group.
            let claim = ["XAUTOCLAIM", STREAM, GROUP, "p1", "60000", "0"];
            let _: redis::Value = redis.run(&claim).await;
            assert!(pending(&mut redis).await.is_empty());
        }
        delivery.ack.settle(Outcome::Reject("it broke".into())).await.unwrap();
        assert!(pending(&mut redis).await.is_empty());
        let letters = process.dead_letters().list(&greeter(), None, 10).await.unwrap();
        assert_eq!(letters.len(), index + 1);
        let letter = &letters[index];
        assert_eq!((&*letter.reason, letter.attempts), ("it broke", 1));
        assert_eq!((&letter.event.id, letter.event.version), (&fired.id, fired.version));
        assert_eq!(letter.event.fields, fired.fields);
        assert_eq!(letter.event.headers.get("traceparent"), Some("00-1"));
    }
}
