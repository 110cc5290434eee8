//! Records that are too large for their topic: each fails for its own sender, and for no other.

use std::collections::BTreeMap;

use crate::support::{brokers, event, listen, options, soon, transports, unique};
use futures_util::future::join_all;
use lightbus_core::{ErrorKind, Name, Outcome, transport::Start};
use serde_json::json;

/// One partition, so that all records may be in one batch, whose limit is 64 KiB.
fn small_topics() -> serde_json::Value {
    let settings = json!({"max.message.bytes": "65536"});
    json!({"partitions": 1, "send_timeout": 30, "topic_settings": settings})
}

/// Fires `count` events of so many bytes at once, one of them of 200 kB if `large` says so. That one is
/// refused, and a listener receives each of the others once.
async fn sent_at_once(brokers: &str, count: usize, bytes: usize, large: Option<usize>) {
    let process = transports(&options(brokers), small_topics());
    let api = unique("orders");
    let mut events = soon(process.event.listen(listen(&api, "one", Start::New))).await.unwrap();
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes));
    let sent: Vec<_> = (0..count)
        .map(|n| {
            let mut event = event(&api, &n.to_string(), None);
            let bytes = if Some(n) == large { 200_000 } else { bytes };
            event.fields = [(Name::from("text"), text(bytes).into())].into_iter().collect();
            event
        })
        .collect();
    let results =
        join_all(sent.iter().map(|event| process.event.send(std::slice::from_ref(event))));
    let mut refused = BTreeMap::new();
    for (n, result) in soon(results).await.into_iter().enumerate() {
        if let Err(error) = result {
            refused.insert(n, error);
        }
    }
    assert!(refused.values().all(|error| error.kind() == ErrorKind::TooLarge), "{refused:?}");
    let refused: Vec<usize> = refused.into_keys().collect();
    assert_eq!(refused, large.into_iter().collect::<Vec<_>>(), "these were refused");
    soon(process.event.send(&[event(&api, "last", None)])).await.unwrap();
    let mut received: BTreeMap<String, usize> = BTreeMap::new();
    loop {
        let delivery = soon(events.next()).await.unwrap().unwrap();
        let id = delivery.message.id.to_string();
        delivery.ack.settle_later(Outcome::Done);
        if id == "last" {
            break;
        }
        *received.entry(id).or_default() += 1;
    }
    assert_eq!(received.len(), count - refused.len());
    assert!(received.values().all(|count| *count == 1), "none is there twice: {received:?}");
}

#[tokio::test]
async fn an_event_over_the_limit_of_its_topic_fails_alone() {
    let Some(brokers) = brokers() else { return };
    sent_at_once(&brokers, 40, 100, Some(20)).await;
}

#[tokio::test]
async fn events_that_are_small_enough_are_not_refused_for_their_number() {
    let Some(brokers) = brokers() else { return };
    sent_at_once(&brokers, 400, 1_000, None).await;
}
