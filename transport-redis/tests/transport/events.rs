//! Events as Python sees them, and what happens when something is in the way.

use std::time::{Duration, SystemTime};

use crate::support::{Redis, connect, event, eventually, greeter, listen, on, soon, with_events};
use futures_util::StreamExt;
use lightbus_core::conformance::Transports;
use lightbus_core::{
    ErrorKind, EventMessage, Outcome, Subscription,
    transport::{EventSelector, GroupSpec, HistorySpec, Start},
};
use lightbus_test_brokers::RedisServer;
use serde_json::json;

const STREAM: &str = "shop.till.*:stream";
const GROUP: &str = "shop-greeter";

async fn next(heard: &mut Subscription<EventMessage>) -> lightbus_core::Delivery<EventMessage> {
    soon(heard.next()).await.unwrap().unwrap()
}

async fn pending(redis: &Redis) -> Vec<(String, String, u64, u64)> {
    let mut redis = Redis(redis.0.clone());
    redis.run(&["XPENDING", STREAM, GROUP, "-", "+", "100"]).await
}

async fn fire(process: &Transports, id: &str) {
    eventually("the event is stored", || async {
        process.event.send(&[event(id, "opened")]).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn an_event_has_the_form_that_python_reads() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut with_headers = event("e2", "opened");
    with_headers.headers.set("traceparent", "00-1");
    let ids = process.event.send(&[event("e1", "opened"), with_headers]).await.unwrap();
    let mut redis = connect(&server.url()).await;
    let entries: Vec<(String, Vec<String>)> = redis.run(&["XRANGE", STREAM, "-", "+"]).await;
    assert_eq!(*entries[0].0, *ids[0]);
    let plain = [
        "id",
        "e1",
        "api_name",
        "shop.till",
        "event_name",
        "opened",
        "version",
        "2",
        ":sku",
        "\"pen\"",
        ":price",
        "1.10",
    ];
    assert_eq!(entries[0].1, plain);
    assert_eq!(entries[1].1[12..], ["", "{\"traceparent\":\"00-1\"}"]);
    let short = with_events(&server, json!({"max_stream_length": 100, "stream_use": "per_event"}));
    for _ in 0..10 {
        let many: Vec<_> = (0..100).map(|number| event(&number.to_string(), "closed")).collect();
        short.event.send(&many).await.unwrap();
    }
    let length: u64 = redis.run(&["XLEN", "shop.till.closed:stream"]).await;
    assert!((100..=300).contains(&length), "{length}");
    let mut all = listen("p", Start::New);
    all.events = vec![EventSelector::all("shop.till")];
    let error = short.event.listen(all).await.unwrap_err();
    assert!(
        error.kind() == ErrorKind::Config && error.to_string().contains("stream_use"),
        "{error}"
    );
}

#[tokio::test]
async fn entries_of_every_form_are_sorted_out() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut redis = connect(&server.url()).await;
    let mut heard = process.event.listen(listen("p1", Start::Earliest)).await.unwrap();
    let good = ["id", "g", "api_name", "shop.till", "event_name", "opened", "version", "1"];
    let bad: &[&[&str]] = &[
        &["", ""],
        &["api_name", "shop.till", "event_name", "opened", "version", "1"],
        &["id", "b", "api_name", "shop.till", "event_name", "opened", "version", "2.0"],
        &["id", "b", "api_name", "shop.till", "event_name", "opened", "version", "1", ":x", "{"],
        &["id", "b", "api_name", "shop.till", "event_name", "opened", "version", "1", ":x", "NaN"],
        &[
            "id",
            "other",
            "api_name",
            "shop.till",
            "event_name",
            "closed",
            "version",
            "1",
            ":x",
            "NaN",
        ],
        &["x", "y"],
    ];
    for fields in bad {
        let _: String = redis.run(&[&["XADD", STREAM, "*"], *fields].concat()).await;
    }
    let _: String = redis
        .run(
            &[
                &["XADD", STREAM, "*"],
                &good[..],
                &["unknown", "1", ":", "2", "", "{\"h\": \"1\", \"n\": 2}"],
            ]
            .concat(),
        )
        .await;
    let delivery = next(&mut heard).await;
    assert_eq!(&*delivery.message.id, "g");
    assert_eq!(delivery.message.headers.get("h"), Some("1"));
    assert_eq!(delivery.message.fields.get("").unwrap(), &b"2"[..]);
    delivery.ack.settle(Outcome::Done).await.unwrap();
    eventually("nothing is pending", || async { pending(&redis).await.is_empty() }).await;
    let letters = process.dead_letters().list(&greeter(), None, 10).await.unwrap();
    assert_eq!(letters.len(), 5);
    assert!(letters[1].reason.contains("2.0"), "{}", letters[1].reason);
    assert_eq!((&*letters[1].event.id, letters[1].attempts), ("b", 1));
    assert_eq!(letters[2].event.fields.get("x").unwrap(), &b"{"[..]);
    assert_eq!(process.dead_letters().list(&greeter(), None, 2).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_rejected_event_is_kept_as_it_was() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    process.event.send(&[event("e1", "opened")]).await.unwrap();
    let delivery = next(&mut heard).await;
    delivery.ack.settle(Outcome::Reject("it broke".into())).await.unwrap();
    let redis = connect(&server.url()).await;
    assert!(pending(&redis).await.is_empty());
    let letters = process.dead_letters().list(&greeter(), None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&*letters[0].reason, &*letters[0].group.name(), &*letters[0].event.id),
        ("it broke", GROUP, "e1")
    );
    assert_eq!(letters[0].event.fields, event("e1", "opened").fields);
    assert_eq!(letters[0].event.version, 2);
}

#[tokio::test]
async fn a_dead_letter_goes_back_to_its_stream_of_either_kind() {
    let Some(server) = RedisServer::start() else { return };
    for (stream_use, stream) in [("per_api", STREAM), ("per_event", "shop.till.opened:stream")] {
        let process = with_events(&server, json!({"stream_use": stream_use}));
        let mut redis = connect(&server.url()).await;
        let _: String = redis.run(&["FLUSHALL"]).await;
        let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
        process.event.send(&[event("e1", "opened")]).await.unwrap();
        next(&mut heard).await.ack.settle(Outcome::Reject("it broke".into())).await.unwrap();
        let letters = process.dead_letters().list(&greeter(), None, 10).await.unwrap();
        let ids = [letters[0].id.clone()];
        let retried = process.dead_letters().requeue(&greeter(), &ids).await.unwrap();
        assert_eq!(retried, 1);
        let delivery = next(&mut heard).await;
        assert_eq!((&*delivery.message.id, delivery.message.attempt), ("e1", 1));
        delivery.ack.settle(Outcome::Done).await.unwrap();
        // Nothing was added: neither an entry nor a member.
        let length: u64 = redis.run(&["XLEN", stream]).await;
        assert_eq!(length, 1);
        let consumers: Vec<Vec<redis::Value>> =
            redis.run(&["XINFO", "CONSUMERS", stream, GROUP]).await;
        assert_eq!(consumers.len(), 1);
    }
}

#[tokio::test]
async fn a_dead_letter_whose_event_was_trimmed_stays() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut redis = connect(&server.url()).await;
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    process.event.send(&[event("e1", "opened"), event("e2", "opened")]).await.unwrap();
    for _ in 0..2 {
        next(&mut heard).await.ack.settle(Outcome::Reject("it broke".into())).await.unwrap();
    }
    let _: u64 = redis.run(&["XTRIM", STREAM, "MAXLEN", "1"]).await;
    let letters = process.dead_letters().list(&greeter(), None, 10).await.unwrap();
    let ids: Vec<_> = letters.iter().map(|letter| letter.id.clone()).collect();
    let error = process.dead_letters().requeue(&greeter(), &ids).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    for part in [&*ids[0], STREAM, "handle_dead_letters"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // Neither of both, for the first cannot.
    assert_eq!(process.dead_letters().list(&greeter(), None, 10).await.unwrap().len(), 2);
    assert!(pending(&redis).await.is_empty());
    let retried = process.dead_letters().requeue(&greeter(), &ids[1..]).await.unwrap();
    assert_eq!(retried, 1);
    let delivery = next(&mut heard).await;
    assert_eq!(&*delivery.message.id, "e2");
    delivery.ack.settle(Outcome::Done).await.unwrap();

    // A group that is gone is told too.
    let _: u64 = redis.run(&["XGROUP", "DESTROY", STREAM, GROUP]).await;
    let stranger = on(&server);
    drop((heard, process));
    let error = stranger.dead_letters().requeue(&greeter(), &ids[..1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
}

#[tokio::test]
async fn a_group_that_vanishes_is_made_again_and_misses_nothing() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut redis = connect(&server.url()).await;
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    for (round, harm) in [
        &["XGROUP", "DESTROY", STREAM, GROUP][..],
        &["FLUSHALL"],
        &["DEL", STREAM],
        &["XGROUP", "DELCONSUMER", STREAM, GROUP, "p1"],
    ]
    .iter()
    .enumerate()
    {
        for part in ["a", "b"] {
            let id = format!("{round}{part}");
            if part == "b" {
                let _: redis::Value = redis.run(harm).await;
            }
            process.event.send(&[event(&id, "opened")]).await.unwrap();
            loop {
                // What came in the same millisecond as the last one may come again.
                let delivery = next(&mut heard).await;
                let got = delivery.message.id.to_string();
                delivery.ack.settle(Outcome::Done).await.unwrap();
                if got == id {
                    break;
                }
            }
        }
    }
    soon(heard.close()).await.unwrap();
}

#[tokio::test]
async fn pending_entries_that_were_deleted_do_no_harm() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let first = on(&server);
    let mut heard = first.event.listen(listen("p1", Start::New)).await.unwrap();
    let ids = first.event.send(&[event("e1", "opened"), event("e2", "opened")]).await.unwrap();
    let held = (next(&mut heard).await, next(&mut heard).await);
    let _: u64 = redis.run(&["XDEL", STREAM, &ids[0]]).await;
    // The process dies with both in hand.
    std::mem::forget(held);
    drop(heard);
    let second = on(&server);
    let mut heard = second.event.listen(listen("p1", Start::New)).await.unwrap();
    let delivery = next(&mut heard).await;
    assert_eq!((&*delivery.message.id, delivery.message.attempt >= 2), ("e2", true));
    delivery.ack.settle(Outcome::Done).await.unwrap();
    eventually("nothing is pending", || async { pending(&redis).await.is_empty() }).await;
}

#[tokio::test]
async fn what_is_given_back_goes_to_another_at_once() {
    let Some(server) = RedisServer::start() else { return };
    let (first, second) = (on(&server), on(&server));
    let mut leaving = first.event.listen(listen("p1", Start::New)).await.unwrap();
    for number in 0..5 {
        fire(&first, &number.to_string()).await;
    }
    let delivery = next(&mut leaving).await;
    delivery.ack.settle(Outcome::Done).await.unwrap();
    let before = tokio::time::Instant::now();
    soon(leaving.close()).await.unwrap();
    assert!(
        before.elapsed() < Duration::from_millis(900),
        "a waiting read is woken: {:?}",
        before.elapsed()
    );
    let mut staying = second.event.listen(listen("p2", Start::New)).await.unwrap();
    for number in 1..5 {
        let delivery = next(&mut staying).await;
        assert_eq!(*delivery.message.id, number.to_string());
        delivery.ack.settle(Outcome::Done).await.unwrap();
    }
}

#[tokio::test]
async fn a_slow_handler_keeps_its_event_and_a_dead_one_loses_it() {
    let Some(server) = RedisServer::start() else { return };
    let options = json!({"acknowledgement_timeout": 0.3, "reclaim_interval": 0.1});
    let (slow, other) = (with_events(&server, options.clone()), with_events(&server, options));
    let redis = connect(&server.url()).await;
    let mut spec = listen("slow", Start::New);
    spec.flow.close_timeout = Duration::from_millis(200);
    let mut first = slow.event.listen(spec).await.unwrap();
    fire(&slow, "e1").await;
    let delivery = next(&mut first).await;
    let mut second = other.event.listen(listen("other", Start::New)).await.unwrap();
    // Nothing is to happen: four times the timeout.
    let stolen = tokio::time::timeout(Duration::from_millis(1200), second.next()).await;
    assert!(stolen.is_err(), "an event that is being handled was given to another");
    assert_eq!(pending(&redis).await[0].1, "slow");
    std::mem::forget(delivery);
    drop(first);
    drop(slow);
    // Dropped without being settled, it is given back after the time for closing; the entry is as
    // old as can be by then, and the other takes it.
    let delivery = next(&mut second).await;
    assert_eq!((&*delivery.message.id, delivery.message.attempt >= 2), ("e1", true));
    delivery.ack.settle(Outcome::Done).await.unwrap();
}

#[tokio::test]
async fn listeners_survive_a_restart_and_killed_connections() {
    let Some(mut server) = RedisServer::start_durable() else {
        return;
    };
    let process = on(&server);
    let mut heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    for round in 0..4 {
        let id = round.to_string();
        fire(&process, &id).await;
        loop {
            let delivery = next(&mut heard).await;
            let got = delivery.message.id.to_string();
            delivery.ack.settle(Outcome::Done).await.unwrap();
            if got == id {
                break;
            }
        }
        if round == 0 {
            server.kill();
            let error = process.event.send(&[event("lost", "opened")]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            server.restart();
        } else {
            let _: i64 = connect(&server.url())
                .await
                .run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
                .await;
        }
    }
    let redis = connect(&server.url()).await;
    eventually("nothing is pending", || async { pending(&redis).await.is_empty() }).await;
}

#[tokio::test]
async fn old_consumers_go_and_those_with_work_stay() {
    let Some(server) = RedisServer::start() else { return };
    let mut redis = connect(&server.url()).await;
    let old = "shop-old";
    for group in [GROUP, old, "shop-new"] {
        let _: () = redis.run(&["XGROUP", "CREATE", STREAM, group, "0", "MKSTREAM"]).await;
    }
    for (group, consumer) in [(GROUP, "dead"), (GROUP, "busy"), (old, "dead")] {
        let _: i64 = redis.run(&["XGROUP", "CREATECONSUMER", STREAM, group, consumer]).await;
    }
    let process = with_events(&server, json!({"consumer_ttl": 0.01}));
    fire(&process, "e").await;
    let _: redis::Value =
        redis.run(&["XREADGROUP", "GROUP", GROUP, "busy", "STREAMS", STREAM, ">"]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let heard = process.event.listen(listen("p1", Start::New)).await.unwrap();
    let groups = |redis: &Redis| {
        let mut redis = Redis(redis.0.clone());
        async move {
            let groups: Vec<std::collections::HashMap<String, redis::Value>> =
                redis.run(&["XINFO", "GROUPS", STREAM]).await;
            let name = |group: &std::collections::HashMap<String, redis::Value>| {
                redis::from_redis_value::<String>(group["name"].clone()).unwrap()
            };
            groups.iter().map(name).collect::<Vec<_>>()
        }
    };
    assert_eq!(groups(&redis).await, [GROUP, "shop-new"]);
    let consumers: Vec<std::collections::HashMap<String, redis::Value>> =
        redis.run(&["XINFO", "CONSUMERS", STREAM, GROUP]).await;
    let mut names: Vec<String> = consumers
        .iter()
        .map(|consumer| redis::from_redis_value(consumer["name"].clone()).unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["busy", "p1"]);
    soon(heard.close()).await.unwrap();
}

#[tokio::test]
async fn the_past_and_the_lag_can_be_looked_at() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut redis = connect(&server.url()).await;
    let opened = [EventSelector::one("shop.till", "opened")];
    let group = greeter();
    let lag = || process.event.lag(&group, &opened);
    assert_eq!(lag().await.unwrap(), Default::default());
    let many: Vec<_> = (0..250)
        .map(|number| event(&number.to_string(), if number % 2 == 0 { "opened" } else { "closed" }))
        .collect();
    process.event.send(&many).await.unwrap();
    let past = |events, from, until| {
        let process = &process;
        async move {
            let past = process.event.history(HistorySpec { events, from, until }).await.unwrap();
            past.map(|event| event.unwrap().id.to_string()).collect::<Vec<_>>().await
        }
    };
    let all = past(EventSelector::all("shop.till"), None, None).await;
    assert_eq!(all, (0..250).rev().map(|number| number.to_string()).collect::<Vec<_>>());
    let opened = past(EventSelector::one("shop.till", "opened"), None, None).await;
    assert_eq!(opened.len(), 125);
    let future = SystemTime::now() + Duration::from_secs(60);
    assert!(past(EventSelector::all("shop.till"), Some(future), None).await.is_empty());
    assert_eq!(past(EventSelector::all("shop.till"), None, Some(future)).await.len(), 250);
    assert!(past(EventSelector::all("nowhere"), None, None).await.is_empty());
    let mut heard = process.event.listen(listen("p1", Start::Earliest)).await.unwrap();
    let held = next(&mut heard).await;
    eventually("all is read", || async { lag().await.unwrap().waiting == 0 }).await;
    assert!(lag().await.unwrap().pending >= 1);
    held.ack.settle(Outcome::Done).await.unwrap();
    soon(heard.close()).await.unwrap();
    // Where an entry was deleted in the middle, Redis cannot tell the lag and it is counted.
    let _: () = redis.run(&["XGROUP", "CREATE", STREAM, "shop-counted", "0"]).await;
    let first: Vec<(String, Vec<String>)> =
        redis.run(&["XRANGE", STREAM, "-", "+", "COUNT", "2"]).await;
    let _: u64 = redis.run(&["XDEL", STREAM, &first[1].0]).await;
    let counted = GroupSpec::new("shop", "counted");
    assert_eq!(
        process
            .event
            .lag(&counted, &[EventSelector::one("shop.till", "opened")])
            .await
            .unwrap()
            .waiting,
        249
    );
}

#[tokio::test]
async fn a_listener_starts_where_it_is_told() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    fire(&process, "old").await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let since = SystemTime::now();
    fire(&process, "new").await;
    for (listener, start, first) in [
        ("a", Start::Earliest, "old"),
        ("b", Start::Since(since), "new"),
        ("c", Start::New, "newest"),
    ] {
        let mut spec = listen("p1", start);
        spec.group.listener = listener.into();
        let mut heard = process.event.listen(spec).await.unwrap();
        if first == "newest" {
            fire(&process, "newest").await;
        }
        let delivery = next(&mut heard).await;
        assert_eq!(&*delivery.message.id, first);
        delivery.ack.settle(Outcome::Done).await.unwrap();
        soon(heard.close()).await.unwrap();
    }
}
