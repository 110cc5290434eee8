//! Messages that are too large: each fails for its own sender, and for no other.

use std::collections::BTreeMap;

use crate::support::{
    LIMIT, Shared, call, event, eventually, listen, on, soon, transports, transports_of, unique,
};
use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use lightbus_core::{
    Delivery, ErrorKind, FlowControl, Headers, Name, Outcome, PendingResult, ResultMessage,
    RpcMessage, conformance::Transports, transport::ServeSpec,
};
use lightbus_test_brokers::RabbitServer;
use serde_json::json;

/// Over the frame size of RabbitMQ, 128 KiB.
fn huge_header() -> Headers {
    let mut headers = Headers::new();
    headers.set("trace", "x".repeat(200_000));
    headers
}

/// JSON of about this many bytes.
fn text_of(bytes: usize) -> Bytes {
    format!("\"{}\"", "x".repeat(bytes)).into()
}

fn result(rpc_id: &Name, body: Bytes) -> ResultMessage {
    ResultMessage {
        id: format!("result of {rpc_id}").into(),
        rpc_id: Name::clone(rpc_id),
        headers: Headers::new(),
        body: Ok(body),
    }
}

/// Calls that a worker has, and what their callers wait for.
struct InFlight {
    pending: Vec<PendingResult>,
    taken: Vec<Delivery<RpcMessage>>,
}

async fn in_flight(caller: &Transports, worker: &Transports, api: &str, count: usize) -> InFlight {
    let spec = ServeSpec { apis: vec![api.into()], flow: FlowControl::new(50, 50) };
    let mut calls = soon(worker.rpc.serve(spec)).await.unwrap();
    let mut pending = Vec::new();
    let mut taken = Vec::new();
    for n in 0..count {
        let id = format!("{api}-{n}");
        let expected = soon(caller.result.expect(&id.as_str().into())).await.unwrap();
        let message = call(api, &id, expected.return_path().as_str(), LIMIT);
        soon(caller.rpc.call(message)).await.unwrap();
        pending.push(expected);
        taken.push(soon(calls.next()).await.unwrap().unwrap());
    }
    // Held by its deliveries until they are settled.
    tokio::spawn(async move { while calls.next().await.is_some() {} });
    InFlight { pending, taken }
}

impl InFlight {
    /// Answers all, and looks whether each caller receives its result.
    async fn answered_by(self, worker: &Transports) {
        for delivery in self.taken {
            let message = &delivery.message;
            let answer = result(&message.id, Bytes::from_static(b"true"));
            soon(worker.result.reply(&message.return_path, answer)).await.unwrap();
            soon(delivery.ack.settle(Outcome::Done)).await.unwrap();
        }
        for pending in self.pending {
            assert_eq!(soon(pending).await.unwrap().body.unwrap(), "true");
        }
    }
}

#[tokio::test]
async fn a_header_over_the_frame_size_fails_its_own_sender_alone() {
    let shared = Shared::new().await;
    let Some(url) = shared.url() else { return };
    let api = unique("auth");
    let process = || transports(&json!({"url": url}), json!({}));
    let (caller, worker) = (process(), process());
    let others = in_flight(&caller, &worker, &api, 20).await;

    let pending = soon(caller.result.expect(&"huge".into())).await.unwrap();
    let mut huge = call(&api, "huge", pending.return_path().as_str(), LIMIT);
    huge.headers = huge_header();
    let error = soon(caller.rpc.call(huge)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    assert!(error.to_string().contains("200"), "its size: {error}");

    let mut huge = event("huge", &api);
    huge.headers = huge_header();
    let error = soon(caller.event.send(&[huge])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");

    let first = &others.taken[0].message;
    let mut huge = result(&first.id, Bytes::from_static(b"true"));
    huge.headers = huge_header();
    let error = soon(worker.result.reply(&first.return_path, huge)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");

    others.answered_by(&worker).await;
}

/// The bodies of messages that a broker with a limit of 64 KiB, or another, accepts.
const SMALL: usize = 39;

/// Sends small events and a large one at once, and returns how often a listener receives each.
async fn sent_at_once(broker: &RabbitServer) -> BTreeMap<String, usize> {
    let process = on(broker);
    let api = unique("orders");
    let mut events = soon(process.event.listen(listen(&api, "one"))).await.unwrap();
    let sent: Vec<_> = (0..=SMALL)
        .map(|n| {
            let mut event = event(&n.to_string(), &api);
            if n == SMALL / 2 {
                event.fields = [(Name::from("sku"), text_of(200_000))].into_iter().collect();
            }
            event
        })
        .collect();
    let results =
        join_all(sent.iter().map(|event| process.event.send(std::slice::from_ref(event))));
    for (n, result) in soon(results).await.into_iter().enumerate() {
        match result {
            Ok(_) => assert_ne!(n, SMALL / 2, "it was too large"),
            Err(error) => {
                assert_eq!((error.kind(), n), (ErrorKind::TooLarge, SMALL / 2), "{error:?}");
                assert!(error.to_string().contains("max_message_size"), "{error}");
            }
        }
    }
    // What is fired last comes last, also behind what is there twice.
    soon(process.event.send(&[event("last", &api)])).await.unwrap();
    let mut received = BTreeMap::new();
    loop {
        let delivery = soon(events.next()).await.unwrap().unwrap();
        let id = delivery.message.id.to_string();
        delivery.ack.settle_later(Outcome::Done);
        if id == "last" {
            return received;
        }
        *received.entry(id).or_default() += 1;
    }
}

#[tokio::test]
async fn an_event_over_the_brokers_limit_fails_alone() {
    let Some(broker) = RabbitServer::start_with("max_message_size = 65536\n").await else { return };
    let received = sent_at_once(&broker).await;
    assert_eq!(received.len(), SMALL, "{received:?}");
    assert!(received.values().all(|count| *count == 1), "none is there twice: {received:?}");
}

#[tokio::test]
async fn with_a_very_low_limit_other_events_are_sent_again() {
    let Some(broker) = RabbitServer::start_with("max_message_size = 8192\n").await else { return };
    let received = sent_at_once(&broker).await;
    assert_eq!(received.len(), SMALL, "{received:?}");
}

#[tokio::test]
async fn calls_and_results_over_the_brokers_limit_fail_alone() {
    let Some(broker) = RabbitServer::start_with("max_message_size = 65536\n").await else { return };
    for confirm in [false, true] {
        let api = unique("auth");
        let process = || {
            transports_of(
                &json!({"url": broker.url()}),
                json!({}),
                json!({}),
                json!({"confirm": confirm}),
            )
        };
        let (caller, worker) = (process(), process());
        let others = in_flight(&caller, &worker, &api, 20).await;

        let pending = soon(caller.result.expect(&"huge".into())).await.unwrap();
        let mut huge = call(&api, "huge", pending.return_path().as_str(), LIMIT);
        huge.fields = [(Name::from("password"), text_of(200_000))].into_iter().collect();
        let small = call(&api, "small", pending.return_path().as_str(), LIMIT);
        let (huge, small) =
            soon(async { tokio::join!(caller.rpc.call(huge), caller.rpc.call(small)) }).await;
        assert_eq!(huge.as_ref().unwrap_err().kind(), ErrorKind::TooLarge, "{huge:?}");
        small.unwrap();

        // As a worker does: an error takes the place of the result.
        for _ in 0..2 {
            let first = &others.taken[0].message;
            let huge = result(&first.id, text_of(200_000));
            let error = soon(worker.result.reply(&first.return_path, huge)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
        }
        assert!(pending.now_or_never().is_none());
        others.answered_by(&worker).await;
    }
}

#[tokio::test]
async fn a_large_result_that_is_allowed_arrives_beside_one_that_is_not() {
    let Some(broker) = RabbitServer::start_with("max_message_size = 65536\n").await else { return };
    let (caller, worker) = (on(&broker), on(&broker));
    let api = unique("auth");
    let calls = in_flight(&caller, &worker, &api, 2).await;
    let bodies = [text_of(60_000), text_of(200_000)];
    let replies = calls.taken.iter().zip(bodies).map(|(delivery, body)| {
        let message = &delivery.message;
        let worker = &worker;
        async move {
            loop {
                let answer = result(&message.id, body.clone());
                match worker.result.reply(&message.return_path, answer).await {
                    // As a worker does.
                    Err(error) if error.is_temporary() => tokio::task::yield_now().await,
                    other => return other,
                }
            }
        }
    });
    let replies = soon(join_all(replies)).await;
    replies[0].as_ref().unwrap();
    assert_eq!(replies[1].as_ref().unwrap_err().kind(), ErrorKind::TooLarge, "{replies:?}");
    let mut pending = calls.pending.into_iter();
    let first = soon(pending.next().unwrap()).await.unwrap().body.unwrap();
    assert_eq!(first, text_of(60_000));
}

#[tokio::test]
async fn an_event_that_has_no_room_for_its_reason_is_dead_lettered_without() {
    let shared = Shared::new().await;
    let Some(url) = shared.url() else { return };
    let api = unique("orders");
    let process = transports(&json!({"url": url}), json!({}));
    let spec = listen(&api, "one");
    let mut events = soon(process.event.listen(spec.clone())).await.unwrap();
    let mut full = event("full", &api);
    full.headers.set("trace", "x".repeat(126_400));
    soon(process.event.send(&[full])).await.unwrap();
    let delivery = soon(events.next()).await.unwrap().unwrap();
    let reason = Outcome::Reject("no ".repeat(2_000).into());
    soon(delivery.ack.settle(reason)).await.unwrap();
    let mut letters = Vec::new();
    eventually("RabbitMQ has dead-lettered it", async || {
        letters = soon(process.dead_letters().list(&spec.group, None, 10)).await.unwrap();
        !letters.is_empty()
    })
    .await;
    assert_eq!(&*letters[0].event.id, "full");
    assert!(letters[0].reason.contains("rejected"), "{}", letters[0].reason);
    // Nothing is broken by its size, and the listener goes on.
    soon(process.event.send(&[event("next", &api)])).await.unwrap();
    let delivery = soon(events.next()).await.unwrap().unwrap();
    assert_eq!(&*delivery.message.id, "next");
    soon(delivery.ack.settle(Outcome::Done)).await.unwrap();
}
