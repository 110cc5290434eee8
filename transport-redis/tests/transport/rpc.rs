//! Calls and results as Python sees them, and what happens when something is in the way.

use std::time::Duration;

use crate::support::{Redis, call, connect, eventually, on, soon};
use lightbus_core::conformance::Transports;
use lightbus_core::{
    FlowControl, Headers, Outcome, RemoteError, ResultMessage, ReturnPath, RpcMessage,
    Subscription, transport::ServeSpec,
};
use lightbus_test_brokers::RedisServer;
use serde_json::{Value, json};

const FIVE: Duration = Duration::from_secs(5);

async fn serve(process: &Transports, apis: &[&str], in_flight: usize) -> Subscription<RpcMessage> {
    let apis = apis.iter().map(|api| (*api).into()).collect();
    process.rpc.serve(ServeSpec { apis, flow: FlowControl::new(64, in_flight) }).await.unwrap()
}

fn result(id: &str, body: Result<&str, RemoteError>) -> ResultMessage {
    ResultMessage {
        id: format!("r-{id}").into(),
        rpc_id: id.into(),
        headers: Headers::new(),
        body: body.map(|value| value.as_bytes().to_vec().into()),
    }
}

/// Queues a call the way Python does.
async fn queue(redis: &mut Redis, api: &str, id: &str, message: &str) {
    let _: () = redis.run(&["RPUSH", &format!("{api}:rpc_queue"), message]).await;
    let _: () = redis.run(&["SET", &format!("rpc_expiry_key:{id}"), "1", "EX", "5"]).await;
}

fn python_call(id: &str, path: &str) -> String {
    format!(
        "{{\"kwargs\": {{\"a\": 1.10, \"n\": 1000000000000000000000000000000, \"t\": \"\\ud83d\\ude00\"}}, \"metadata\": {{\"api_name\": \"shop.till\", \"id\": \"{id}\", \"procedure_name\": \"add\", \"return_path\": \"{path}\"}}}}"
    )
}

#[tokio::test]
async fn a_call_has_the_form_that_python_reads() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    process.rpc.call(call("shop.till", "c1", "redis+key://back", FIVE)).await.unwrap();
    let mut redis = connect(&server.url()).await;
    let ttl: i64 = redis.run(&["PTTL", "rpc_expiry_key:c1"]).await;
    assert!((4000..=5000).contains(&ttl), "{ttl}");
    let value: String = redis.run(&["GET", "rpc_expiry_key:c1"]).await;
    assert_eq!(value, "1");
    let raw: String = redis.run(&["LPOP", "shop.till:rpc_queue"]).await;
    let mut message: Value = serde_json::from_str(&raw).unwrap();
    let headers = message.as_object_mut().unwrap().remove("headers").unwrap();
    assert!(headers["time-left-ms"].as_str().unwrap().parse::<u64>().unwrap() <= 5000);
    let expected = json!({
        "kwargs": {"a": 2, "b": "é☃"},
        "metadata": {"api_name": "shop.till", "id": "c1", "procedure_name": "add", "return_path": "redis+key://back"},
    });
    assert_eq!(message, expected);
}

#[tokio::test]
async fn results_have_the_form_that_python_reads_and_expire() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let path = ReturnPath::new("redis+key://shop.till.add:result:c1");
    process.result.reply(&path, result("c1", Ok("1.10"))).await.unwrap();
    let error = RemoteError {
        message: "ValueError('é')".into(),
        trace: Some("line\n1".into()),
        name: Some("NotFound".into()),
        detail: Some(b"{\"sku\":\"pen\"}".to_vec().into()),
    };
    process.result.reply(&path, result("c1", Err(error))).await.unwrap();
    let mut redis = connect(&server.url()).await;
    let ttl: i64 = redis.run(&["TTL", "shop.till.add:result:c1"]).await;
    assert!((58..=60).contains(&ttl), "{ttl}");
    let raw: String = redis.run(&["RPOP", "shop.till.add:result:c1"]).await;
    assert!(raw.contains("\"result\":1.10"), "{raw}");
    assert_eq!(
        serde_json::from_str::<Value>(&raw).unwrap()["metadata"],
        json!({"error": false, "id": "r-c1", "rpc_message_id": "c1"})
    );
    let raw: String = redis.run(&["RPOP", "shop.till.add:result:c1"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&raw).unwrap(),
        json!({
            "error": {"detail": {"sku": "pen"}, "name": "NotFound"},
            "kwargs": {"result": "ValueError('é')"},
            "metadata": {"error": true, "id": "r-c1", "rpc_message_id": "c1", "trace": "line\n1"},
        })
    );
    for bad in ["amqp://x", "redis+key://"] {
        let error =
            process.result.reply(&ReturnPath::new(bad), result("c1", Ok("1"))).await.unwrap_err();
        assert_eq!(error.kind(), lightbus_core::ErrorKind::Malformed);
    }
}

#[tokio::test]
async fn results_of_every_form_reach_their_callers() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut redis = connect(&server.url()).await;
    let cases = [
        ("1", r#"{"kwargs": {"result": null}, "metadata": {"id": "x", "rpc_message_id": "1"}}"#),
        (
            "2",
            r#"{"kwargs": {}, "metadata": {"id": "x", "rpc_message_id": "2", "error": null, "odd": 1}}"#,
        ),
        (
            "3",
            r#"{"kwargs": {"result": [1.10]}, "metadata": {"id": "x", "rpc_message_id": "3", "error": false, "trace": null}, "more": 1}"#,
        ),
        (
            "4",
            r#"{"kwargs": {"result": "E(1)"}, "metadata": {"id": "x", "rpc_message_id": "4", "error": 1, "trace": "t\u00e9"}}"#,
        ),
        (
            "5",
            r#"{"kwargs": {"result": {"a": 1}}, "metadata": {"id": "x", "rpc_message_id": "5", "error": "yes"}}"#,
        ),
    ];
    let mut pending = Vec::new();
    for (id, _) in &cases {
        pending.push(process.result.expect(&(*id).into()).await.unwrap());
    }
    let key = pending[0].return_path().as_str().strip_prefix("redis+key://").unwrap().to_owned();
    for garbage in [
        "",
        "{",
        "[]",
        "\u{0}",
        r#"{"kwargs":{"result":NaN},"metadata":{"id":"x","rpc_message_id":"9"}}"#,
    ] {
        let _: () = redis.run(&["LPUSH", &key, garbage]).await;
    }
    for (_, raw) in &cases {
        let _: () = redis.run(&["LPUSH", &key, raw]).await;
    }
    let mut bodies = Vec::new();
    for pending in pending {
        bodies.push(soon(pending).await.unwrap().body);
    }
    assert_eq!(bodies[0].as_ref().unwrap(), &b"null"[..]);
    assert_eq!(bodies[1].as_ref().unwrap(), &b"null"[..]);
    assert_eq!(bodies[2].as_ref().unwrap(), &b"[1.10]"[..]);
    let error = bodies[3].as_ref().unwrap_err();
    assert_eq!((&*error.message, error.trace.as_deref()), ("E(1)", Some("té")));
    assert_eq!(bodies[4].as_ref().unwrap_err().message, "{\"a\": 1}");
}

#[tokio::test]
async fn python_calls_are_taken_and_expired_ones_are_not() {
    for arguments in [&[][..], &["--rename-command", "BLMPOP", ""]] {
        let Some(server) = RedisServer::start_with(arguments) else { return };
        let process = on(&server);
        let mut redis = connect(&server.url()).await;
        queue(&mut redis, "shop.till", "p1", &python_call("p1", "redis+key://back")).await;
        let expired = python_call("p0", "redis+key://back");
        let _: () = redis.run(&["LPUSH", "shop.till:rpc_queue", &expired]).await;
        // Queued twice, it runs once.
        let _: () = redis
            .run(&["RPUSH", "shop.till:rpc_queue", &python_call("p1", "redis+key://back")])
            .await;
        let of_orders = python_call("p2", "redis+key://back").replace("shop.till", "shop.orders");
        queue(&mut redis, "shop.orders", "p2", &of_orders).await;
        let mut calls = serve(&process, &["internal.state", "shop.till", "shop.orders"], 100).await;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let delivery = soon(calls.next()).await.unwrap().unwrap();
            seen.push(delivery.message.id.to_string());
            assert_eq!(delivery.message.fields.get("a").unwrap(), &b"1.10"[..]);
            assert_eq!(
                delivery.message.fields.get("n").unwrap(),
                &b"1000000000000000000000000000000"[..]
            );
            delivery.ack.settle(Outcome::Done).await.unwrap();
        }
        seen.sort();
        assert_eq!(seen, ["p1", "p2"]);
        eventually("the queues are empty", || {
            let mut redis = Redis(redis.0.clone());
            async move { redis.run::<i64>(&["DBSIZE"]).await == 0 }
        })
        .await;
        soon(calls.close()).await.unwrap();
    }
}

#[tokio::test]
async fn the_deadline_of_a_call_is_what_its_expiry_key_has_left() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut redis = connect(&server.url()).await;
    // Two Python clients that wait for long, and a Rust call that has waited in its queue: its header says
    // how much was left when it was sent.
    let header = r#"{"headers": {"time-left-ms": "60000"}, "#;
    let of_rust = python_call("c3", "redis+key://back").replacen('{', header, 1);
    let calls = [
        ("c1", python_call("c1", "redis+key://back"), "30000"),
        ("c2", python_call("c2", "redis+key://back"), "60000"),
        ("c3", of_rust, "20000"),
    ];
    // One by one, and several in one batch.
    for in_flight in [1, 10] {
        for (id, message, left) in &calls {
            let _: () = redis.run(&["SET", &format!("rpc_expiry_key:{id}"), "1", "PX", left]).await;
            let _: i64 = redis.run(&["RPUSH", "shop.till:rpc_queue", message]).await;
        }
        let mut subscription = serve(&process, &["shop.till"], in_flight).await;
        for (id, _, left) in &calls {
            let left = Duration::from_millis(left.parse().unwrap());
            let delivery = soon(subscription.next()).await.unwrap().unwrap();
            assert_eq!(&*delivery.message.id, *id);
            let found = delivery.message.deadline.duration_since(tokio::time::Instant::now());
            assert!(found <= left && found > left / 2, "{id}: {found:?} of {left:?}");
            delivery.ack.settle(Outcome::Done).await.unwrap();
        }
        soon(subscription.close()).await.unwrap();
    }
}

#[tokio::test]
async fn a_call_that_cannot_be_read_is_answered_and_the_others_go_on() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut redis = connect(&server.url()).await;
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let bad = [
        "garbage".to_owned(),
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"metadata": {"id": "", "api_name": "a", "procedure_name": "p", "return_path": "x"}}"#.to_owned(),
        r#"{"kwargs": null, "metadata": {"id": "b1", "api_name": "a", "procedure_name": "p", "return_path": "redis+key://back:b1"}}"#.to_owned(),
        r#"{"kwargs": {"x": NaN}, "metadata": {"id": "b2", "api_name": "a", "procedure_name": "p", "return_path": "redis+key://back:b2"}}"#.to_owned(),
        r#"{"kwargs": {"x": 1}, "metadata": {"api_name": "a", "id": "b4", "return_path": "redis+key://back:b4", "procedure_na"#.to_owned(),
        r#"{"kwargs": {"x": 1}, "metadata": {"id": "b3", "api_name": "a", "procedure_name": 7, "return_path": "redis+key://back:b3"}}"#.to_owned(),
    ];
    for message in &bad {
        let _: () = redis.run(&["RPUSH", "shop.till:rpc_queue", message]).await;
    }
    let _: () = redis::cmd("RPUSH")
        .arg("shop.till:rpc_queue")
        .arg(&b"{\"\xff"[..])
        .query_async(&mut redis.0)
        .await
        .unwrap();
    let odd = format!(
        r#"{{"kwargs": {{"deep": {deep}, "lone": "\ud83d"}}, "unknown": 1, "headers": 5, "metadata": {{"id": "ok", "api_name": "shop.till", "procedure_name": "p", "return_path": "redis+key://x", "extra": {{}}}}}}"#
    );
    queue(&mut redis, "shop.till", "ok", &odd).await;
    let mut calls = serve(&process, &["shop.till"], 100).await;
    let delivery = soon(calls.next()).await.unwrap().unwrap();
    assert_eq!(&*delivery.message.id, "ok");
    let deep: lightbus_core::Result<Value> =
        lightbus_core::codec::decode_field(&delivery.message.fields, "deep");
    assert!(deep.is_err());
    for id in ["b1", "b2", "b3", "b4"] {
        let answer: Vec<String> = redis.run(&["BLPOP", &format!("back:{id}"), "10"]).await;
        let answer: Value = serde_json::from_str(&answer[1]).unwrap();
        assert_eq!(answer["metadata"]["rpc_message_id"], id);
        assert_eq!(answer["metadata"]["error"], true);
    }
}

#[tokio::test]
async fn close_gives_back_what_nobody_has_seen_in_order() {
    let Some(server) = RedisServer::start() else { return };
    let (first, second) = (on(&server), on(&server));
    let mut calls = serve(&first, &["shop.till"], 100).await;
    for number in 0..20 {
        let message = call("shop.till", &format!("c{number}"), "redis+key://b", FIVE);
        first.rpc.call(message).await.unwrap();
    }
    let seen = soon(calls.next()).await.unwrap().unwrap();
    assert_eq!(&*seen.message.id, "c0");
    seen.ack.settle(Outcome::Done).await.unwrap();
    let before = tokio::time::Instant::now();
    soon(calls.close()).await.unwrap();
    assert!(
        before.elapsed() < Duration::from_millis(900),
        "a waiting read is woken: {:?}",
        before.elapsed()
    );
    let mut calls = serve(&second, &["shop.till"], 100).await;
    for number in 1..20 {
        let delivery = soon(calls.next()).await.unwrap().unwrap();
        assert_eq!(*delivery.message.id, format!("c{number}"));
        delivery.ack.settle(Outcome::Done).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_round_trips_and_dropped_ones_strand_nobody() {
    let Some(server) = RedisServer::start() else { return };
    let process = std::sync::Arc::new(on(&server));
    let mut tasks = Vec::new();
    for number in 0..500 {
        let process = std::sync::Arc::clone(&process);
        tasks.push(tokio::spawn(async move {
            let send =
                process.rpc.call(call("shop.till", &format!("c{number}"), "redis+key://b", FIVE));
            if number % 3 == 0 {
                // Given up somewhere in the middle.
                let _ = tokio::time::timeout(Duration::from_micros(number), send).await;
            } else {
                send.await.unwrap();
            }
        }));
    }
    for task in tasks {
        soon(task).await.unwrap();
    }
    let mut redis = connect(&server.url()).await;
    let queued: usize = redis.run(&["LLEN", "shop.till:rpc_queue"]).await;
    assert!((333..=500).contains(&queued), "{queued}");
}

#[tokio::test]
async fn calls_and_results_survive_a_restart_and_killed_connections() {
    let Some(mut server) = RedisServer::start() else { return };
    let (client, worker) = (on(&server), on(&server));
    let mut calls = serve(&worker, &["shop.till"], 100).await;
    for round in 0..3 {
        let id = format!("c{round}").into();
        let pending = client.result.expect(&id).await.unwrap();
        let path = pending.return_path().as_str().to_owned();
        eventually("the call is taken", || async {
            client.rpc.call(call("shop.till", &id, &path, FIVE)).await.is_ok()
        })
        .await;
        let delivery = soon(calls.next()).await.unwrap().unwrap();
        let to = delivery.message.return_path.clone();
        eventually("the result is taken", || async {
            worker.result.reply(&to, result(&id, Ok("1"))).await.is_ok()
        })
        .await;
        soon(pending).await.unwrap().body.unwrap();
        delivery.ack.settle(Outcome::Done).await.unwrap();
        if round == 0 {
            server.kill();
            let error = client
                .rpc
                .call(call("shop.till", "lost", "redis+key://b", Duration::from_millis(300)))
                .await
                .unwrap_err();
            assert_eq!(error.kind(), lightbus_core::ErrorKind::Unavailable, "{error}");
            server.restart();
        } else {
            let _: i64 = connect(&server.url())
                .await
                .run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
                .await;
        }
    }
}

#[tokio::test]
async fn closed_transports_say_so_and_end_their_subscriptions() {
    let Some(server) = RedisServer::start() else { return };
    let process = on(&server);
    let mut calls = serve(&process, &["shop.till"], 100).await;
    let pending = process.result.expect(&"x".into()).await.unwrap();
    process.rpc.close().await.unwrap();
    process.rpc.close().await.unwrap();
    process.result.close().await.unwrap();
    assert_eq!(soon(pending).await.unwrap_err().kind(), lightbus_core::ErrorKind::Closed);
    let error = process.rpc.call(call("a", "b", "redis+key://c", FIVE)).await.unwrap_err();
    assert_eq!(error.kind(), lightbus_core::ErrorKind::Closed);
    soon(async { while calls.next().await.is_some() {} }).await;
}
