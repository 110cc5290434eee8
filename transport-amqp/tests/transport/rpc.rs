//! Calls: what the suite cannot know of RabbitMQ.

use std::time::Duration;

use crate::support::{LIMIT, Shared, call, soon, transports, transports_with, unique};
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use lightbus_core::conformance::Transports;
use lightbus_core::{ErrorKind, FlowControl, Outcome, Subscription, transport::ServeSpec};
use serde_json::json;

/// Where no return path is needed.
const NOWHERE: &str = "amq.rabbitmq.reply-to.nobody";

async fn url() -> Option<(Shared, String)> {
    let shared = Shared::new().await;
    let url = shared.url()?;
    Some((shared, url))
}

fn process(url: &str) -> Transports {
    transports(&json!({"url": url}), json!({}))
}

fn serving(api: &str) -> ServeSpec {
    let flow = FlowControl::new(10, 10).close_within(Duration::from_secs(2));
    ServeSpec { apis: vec![api.into()], flow }
}

async fn next(calls: &mut Subscription<lightbus_core::RpcMessage>) -> String {
    let delivery = soon(calls.next()).await.unwrap().unwrap();
    let id = delivery.message.id.to_string();
    delivery.ack.settle(Outcome::Done).await.unwrap();
    id
}

#[tokio::test]
async fn an_api_that_nobody_has_ever_served_is_said_at_once_if_asked_for() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("auth");
    let refusing =
        transports_with(&json!({"url": url}), json!({}), json!({"unknown_api": "refuse"}));
    let error = soon(refusing.rpc.call(call(&api, "1", NOWHERE, LIMIT))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error:?}");
    assert!(!error.is_temporary());
    for part in [api.as_str(), "ever served", &format!("{api}.rpc_queue")] {
        assert!(error.to_string().contains(part), "{error}");
    }
    // Once somebody serves it, it is known, also while nobody does.
    let worker = process(&url);
    let calls = soon(worker.rpc.serve(serving(&api))).await.unwrap();
    soon(calls.close()).await.unwrap();
    soon(refusing.rpc.call(call(&api, "2", NOWHERE, LIMIT))).await.unwrap();
    let mut calls = soon(worker.rpc.serve(serving(&api))).await.unwrap();
    assert_eq!(next(&mut calls).await, "2");
}

#[tokio::test]
async fn a_queue_that_has_vanished_is_made_again() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("auth");
    let process = process(&url);
    soon(process.rpc.call(call(&api, "1", NOWHERE, LIMIT))).await.unwrap();
    let (_connection, channel) = crate::support::channel(&url).await;
    let queue = format!("{api}.rpc_queue");
    soon(channel.queue_delete(queue.into(), QueueDeleteOptions::default())).await.unwrap();
    soon(process.rpc.call(call(&api, "2", NOWHERE, LIMIT))).await.unwrap();
    let mut calls = soon(process.rpc.serve(serving(&api))).await.unwrap();
    assert_eq!(next(&mut calls).await, "2", "the first one went with its queue");
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_with_what_differs() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("auth");
    let process = process(&url);
    let (_connection, channel) = crate::support::channel(&url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-expires".into(), AMQPValue::LongLongInt(60_000));
    let queue = format!("{api}.rpc_queue");
    let declare =
        channel.queue_declare(queue.as_str().into(), QueueDeclareOptions::default(), arguments);
    soon(declare).await.unwrap();
    for error in [
        soon(process.rpc.serve(serving(&api))).await.unwrap_err(),
        soon(process.rpc.call(call(&api, "1", NOWHERE, LIMIT))).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        for part in [&queue, "x-expires", "rabbitmqctl delete_queue"] {
            assert!(error.to_string().contains(part), "{part} is missing in {error}");
        }
    }
    // Others do not suffer: the conflict has ended a channel that nobody else uses.
    let other = unique("shop");
    soon(process.rpc.call(call(&other, "2", NOWHERE, LIMIT))).await.unwrap();
}

#[tokio::test]
async fn a_call_that_a_lost_worker_had_is_not_run_again() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("auth");
    let process = process(&url);
    soon(process.rpc.call(call(&api, "lost", NOWHERE, LIMIT))).await.unwrap();
    // A worker that takes it and loses its connection.
    let (connection, channel) = crate::support::channel(&url).await;
    let queue = format!("{api}.rpc_queue");
    let consume = channel.basic_consume(
        queue.into(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let mut consumer = soon(consume).await.unwrap();
    soon(futures_util::StreamExt::next(&mut consumer)).await.unwrap().unwrap();
    soon(connection.close(200, "lost".into())).await.unwrap();

    soon(process.rpc.call(call(&api, "next", NOWHERE, LIMIT))).await.unwrap();
    let mut calls = soon(process.rpc.serve(serving(&api))).await.unwrap();
    assert_eq!(next(&mut calls).await, "next");
}

#[tokio::test]
async fn a_full_queue_refuses_calls() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("auth");
    let process = transports_with(&json!({"url": url}), json!({}), json!({"max_queue_length": 2}));
    // Room is made when one expires: these do not.
    for n in 0..2 {
        soon(process.rpc.call(call(&api, &n.to_string(), NOWHERE, LIMIT))).await.unwrap();
    }
    let limit = Duration::from_millis(500);
    let error = soon(process.rpc.call(call(&api, "more", NOWHERE, limit))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("full"), "{error}");
}
