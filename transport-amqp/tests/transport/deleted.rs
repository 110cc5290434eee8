//! What an operator deletes while it is used is there again, and nothing is lost silently.

use std::{collections::BTreeSet, time::Duration};

use crate::support::{
    LIMIT, Shared, channel, delete_queue, event, eventually, listen, soon, transports, unique,
};
use lightbus_core::{
    EventMessage, Outcome, Subscription,
    conformance::Transports,
    transport::{GroupSpec, ListenSpec},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

/// A process whose exchange no other test uses.
fn process(url: &str, exchange: &str) -> Transports {
    transports(&json!({"url": url}), json!({"exchange": exchange}))
}

async fn delete_exchange(url: &str, exchange: &str) {
    let (connection, channel) = channel(url).await;
    soon(channel.exchange_delete(exchange.into(), Default::default())).await.unwrap();
    soon(connection.close(200, "done".into())).await.unwrap();
}

async fn take(events: &mut Subscription<EventMessage>, mut missing: BTreeSet<String>) {
    while !missing.is_empty() {
        let next = timeout(LIMIT, events.next()).await;
        let next = next.unwrap_or_else(|_| panic!("{} never come: {missing:?}", missing.len()));
        let delivery = next.unwrap().unwrap();
        missing.remove(&*delivery.message.id);
        delivery.ack.settle_later(Outcome::Done);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_was_deleted_is_restored_with_its_bindings() {
    let shared = Shared::new().await;
    let Some(url) = shared.url() else { return };
    let (api, exchange) = (unique("shop"), unique("events"));
    let (sender, one, two) =
        (process(&url, &exchange), process(&url, &exchange), process(&url, &exchange));
    let group = |name: &str| GroupSpec::new("shop", format!("{name}-of-{api}"));
    let mut first =
        soon(one.event.listen(ListenSpec { group: group("first"), ..listen(&api, "one") }))
            .await
            .unwrap();
    let mut second =
        soon(two.event.listen(ListenSpec { group: group("second"), ..listen(&api, "two") }))
            .await
            .unwrap();
    soon(sender.event.send(&[event("before", &api)])).await.unwrap();
    delete_exchange(&url, &exchange).await;

    // Fired as long as it takes: each that is confirmed reaches both.
    let mut confirmed: BTreeSet<String> = ["before".to_owned()].into();
    let until = Instant::now() + LIMIT;
    for n in 0.. {
        let id = n.to_string();
        match soon(sender.event.send(&[event(&id, &api)])).await {
            Ok(_) => {
                confirmed.insert(id);
            }
            Err(error) => assert!(error.is_temporary(), "{error:?}"),
        }
        if confirmed.len() > 20 {
            break;
        }
        assert!(Instant::now() < until, "nothing is confirmed any more");
    }
    take(&mut first, confirmed.clone()).await;
    take(&mut second, confirmed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_listener_says_that_its_exchange_is_gone_until_it_is_back() {
    let shared = Shared::new().await;
    let Some(url) = shared.url() else { return };
    let (api, exchange) = (unique("shop"), unique("events"));
    let process = process(&url, &exchange);
    let mut events = soon(process.event.listen(listen(&api, "one"))).await.unwrap();
    let connectivity = events.connectivity();
    delete_exchange(&url, &exchange).await;
    eventually("its health tells", async || connectivity.is_interrupted()).await;
    eventually("it is well again", async || !connectivity.is_interrupted()).await;
    soon(process.event.send(&[event("after", &api)])).await.unwrap();
    take(&mut events, ["after".to_owned()].into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_dead_letters_that_was_deleted_is_made_again() {
    const EVENTS: usize = 200;
    let shared = Shared::new().await;
    let Some(url) = shared.url() else { return };
    let (api, exchange) = (unique("shop"), unique("events"));
    let process = process(&url, &exchange);
    let spec = listen(&api, "one");
    let mut events = soon(process.event.listen(spec.clone())).await.unwrap();
    delete_queue(&url, &format!("{}.dead_letters", spec.group.name())).await;
    let sent: Vec<_> = (0..EVENTS).map(|n| event(&n.to_string(), &api)).collect();
    soon(process.event.send(&sent)).await.unwrap();
    let mut settled = Vec::new();
    for n in 0..EVENTS {
        let delivery = soon(events.next()).await.unwrap().unwrap();
        let outcome = if n == 7 { Outcome::Reject("no".into()) } else { Outcome::Done };
        settled.push(tokio::spawn(delivery.ack.settle(outcome)));
    }
    for settled in settled {
        timeout(Duration::from_secs(5), settled).await.expect("settled").unwrap().unwrap();
    }
    let letters = soon(process.dead_letters().list(&spec.group, None, 10)).await.unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!(&*letters[0].event.id, "7");
}
