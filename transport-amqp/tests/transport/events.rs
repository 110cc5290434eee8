//! Events: what the suite cannot know of RabbitMQ.

use std::time::{Duration, SystemTime};

use crate::support::{Shared, event, eventually, listen, soon, transports, unique};
use lapin::BasicProperties;
use lightbus_core::{
    ErrorKind, Outcome,
    transport::{EventSelector, HistorySpec, ListenSpec, Start},
};
use serde_json::json;

async fn url() -> Option<(Shared, String)> {
    let shared = Shared::new().await;
    let url = shared.url()?;
    Some((shared, url))
}

#[tokio::test]
async fn anything_that_publishes_json_can_fire() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("shop");
    let process = transports(&json!({"url": url}), json!({}));
    let mut events = soon(process.event.listen(listen(&api, "one"))).await.unwrap();
    let properties = BasicProperties::default().with_message_id("17".into());
    let key = format!("{api}.opened");
    crate::support::publish(&url, "lightbus.events", &key, properties, b"{\"at\": 7.50}").await;
    let delivery = soon(events.next()).await.unwrap().unwrap();
    let message = &delivery.message;
    assert_eq!((&*message.id, &*message.api, &*message.event), ("17", api.as_str(), "opened"));
    assert_eq!(message.version, 1);
    assert_eq!(message.fields.get("at").unwrap(), "7.50");
    soon(delivery.ack.settle(Outcome::Done)).await.unwrap();
}

#[tokio::test]
async fn an_event_that_kills_its_process_again_and_again_is_set_aside_by_the_broker() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("shop");
    let options = json!({"delivery_limit": 2});
    let spec = listen(&api, "one");
    let sender = transports(&json!({"url": url}), options.clone());
    soon(soon(sender.event.listen(spec.clone())).await.unwrap().close()).await.unwrap();
    soon(sender.event.send(&[event("poison", &api)])).await.unwrap();
    for attempt in 1..=3 {
        let process = transports(&json!({"url": url}), options.clone());
        let mut events = soon(process.event.listen(spec.clone())).await.unwrap();
        let delivery = soon(events.next()).await.unwrap().unwrap();
        assert_eq!(delivery.message.attempt, attempt);
        // Nobody has said anything when the connection ends.
        soon(process.event.close()).await.unwrap();
        drop(events);
        drop(delivery);
    }
    eventually("it is among the dead letters", || async {
        let letters = soon(sender.dead_letters().list(&spec.group, None, 10)).await.unwrap();
        letters
            .iter()
            .any(|letter| &*letter.event.id == "poison" && letter.reason.contains("delivery_limit"))
    })
    .await;

    // Given back, the broker counts its deliveries anew.
    let letters = soon(sender.dead_letters().list(&spec.group, None, 10)).await.unwrap();
    assert!(letters[0].time > SystemTime::now() - Duration::from_secs(600));
    let ids = [letters[0].id.clone()];
    let retried = sender.dead_letters().requeue(&spec.group, &ids);
    assert_eq!(soon(retried).await.unwrap(), 1);
    let mut events = soon(sender.event.listen(spec.clone())).await.unwrap();
    let delivery = soon(events.next()).await.unwrap().unwrap();
    assert_eq!((&*delivery.message.id, delivery.message.attempt), ("poison", 1));
    soon(delivery.ack.settle(Outcome::Done)).await.unwrap();
}

#[tokio::test]
async fn a_foreign_event_keeps_its_name_as_a_dead_letter_and_after() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("shop");
    let process = transports(&json!({"url": url}), json!({}));
    let spec = listen(&api, "one");
    let mut events = soon(process.event.listen(spec.clone())).await.unwrap();
    // Only its routing key names it.
    let properties = BasicProperties::default().with_message_id("17".into());
    let key = format!("{api}.opened");
    crate::support::publish(&url, "lightbus.events", &key, properties, b"{}").await;
    let delivery = soon(events.next()).await.unwrap().unwrap();
    soon(delivery.ack.settle(Outcome::Reject("no".into()))).await.unwrap();
    let letters = soon(process.dead_letters().list(&spec.group, None, 10)).await.unwrap();
    assert_eq!((&*letters[0].event.api, &*letters[0].event.event), (api.as_str(), "opened"));
    let ids = [letters[0].id.clone()];
    let retried = process.dead_letters().requeue(&spec.group, &ids);
    assert_eq!(soon(retried).await.unwrap(), 1);
    let delivery = soon(events.next()).await.unwrap().unwrap();
    let message = &delivery.message;
    assert_eq!((&*message.id, &*message.api, &*message.event), ("17", api.as_str(), "opened"));
    assert!(message.headers.is_empty(), "nothing of its death: {:?}", message.headers);
    soon(delivery.ack.settle(Outcome::Done)).await.unwrap();
}

#[tokio::test]
async fn without_its_listeners_queue_a_dead_letter_stays() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("shop");
    let process = transports(&json!({"url": url}), json!({}));
    let spec = listen(&api, "one");
    let mut events = soon(process.event.listen(spec.clone())).await.unwrap();
    soon(process.event.send(&[event("e1", &api)])).await.unwrap();
    let delivery = soon(events.next()).await.unwrap().unwrap();
    soon(delivery.ack.settle(Outcome::Reject("no".into()))).await.unwrap();
    soon(events.close()).await.unwrap();
    crate::support::delete_queue(&url, &spec.group.name()).await;
    let letters =
        || async { soon(process.dead_letters().list(&spec.group, None, 10)).await.unwrap() };
    let ids = [letters().await[0].id.clone()];
    let retried = process.dead_letters().requeue(&spec.group, &ids);
    let error = soon(retried).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    eventually("it is back among the dead letters", || async { letters().await.len() == 1 }).await;
}

#[tokio::test]
async fn what_an_earlier_version_listened_to_is_skipped() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("shop");
    let process = transports(&json!({"url": url}), json!({}));
    let more = ListenSpec { events: vec![EventSelector::all(api.as_str())], ..listen(&api, "one") };
    soon(soon(process.event.listen(more)).await.unwrap().close()).await.unwrap();
    let mut closed = event("closed", &api);
    closed.event = "closed".into();
    soon(process.event.send(&[closed, event("opened", &api)])).await.unwrap();
    let mut events = soon(process.event.listen(listen(&api, "one"))).await.unwrap();
    let delivery = soon(events.next()).await.unwrap().unwrap();
    assert_eq!(&*delivery.message.id, "opened");
    soon(delivery.ack.settle(Outcome::Done)).await.unwrap();
}

#[tokio::test]
async fn one_process_at_a_time_if_asked_for() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("shop");
    let new = || transports(&json!({"url": url}), json!({"single_active_consumer": true}));
    let (one, two) = (new(), new());
    let mut first = soon(one.event.listen(listen(&api, "one"))).await.unwrap();
    let mut second = soon(two.event.listen(listen(&api, "two"))).await.unwrap();
    let sent: Vec<_> = (0..20).map(|n| event(&n.to_string(), &api)).collect();
    soon(one.event.send(&sent)).await.unwrap();
    for n in 0..10 {
        let delivery = soon(first.next()).await.unwrap().unwrap();
        assert_eq!(*delivery.message.id, n.to_string());
        soon(delivery.ack.settle(Outcome::Done)).await.unwrap();
    }
    assert!(futures_util::FutureExt::now_or_never(second.next()).is_none(), "it waits");
    soon(first.close()).await.unwrap();
    soon(one.event.close()).await.unwrap();
    for n in 10..20 {
        let delivery = soon(second.next()).await.unwrap().unwrap();
        assert_eq!(*delivery.message.id, n.to_string());
        soon(delivery.ack.settle(Outcome::Done)).await.unwrap();
    }
}

#[tokio::test]
async fn filling_a_new_listener_that_was_interrupted_begins_again() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("shop");
    let process = transports(&json!({"url": url}), json!({"history": {}}));
    let sent: Vec<_> = (0..300).map(|n| event(&n.to_string(), &api)).collect();
    soon(process.event.send(&sent)).await.unwrap();
    // What a process leaves that dies half-way: the mark, and a queue with some of the past.
    let spec = ListenSpec { start: Start::Since(SystemTime::UNIX_EPOCH), ..listen(&api, "one") };
    let group = spec.group.to_string();
    let (_connection, channel) = crate::support::channel(&url).await;
    for name in [format!("{group}.filling"), group] {
        let durable = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
        soon(channel.queue_declare(name.into(), durable, Default::default())).await.unwrap();
    }
    let mut events = soon(process.event.listen(spec)).await.unwrap();
    for n in 0..300 {
        let delivery = soon(events.next()).await.unwrap().unwrap();
        assert_eq!(*delivery.message.id, n.to_string());
        delivery.ack.settle_later(Outcome::Done);
    }
}

#[tokio::test]
async fn a_long_history_is_read_page_by_page() {
    let Some((_broker, url)) = url().await else { return };
    let api = unique("shop");
    let process = transports(&json!({"url": url}), json!({"history": {}}));
    let sent: Vec<_> = (0..1500).map(|n| event(&n.to_string(), &api)).collect();
    soon(process.event.send(&sent)).await.unwrap();
    let events = EventSelector::all(api.as_str());
    let spec = HistorySpec { events, from: None, until: None };
    for _ in 0..2 {
        let stream = soon(process.event.history(spec.clone())).await.unwrap();
        let found: Vec<_> = soon(futures_util::StreamExt::collect(stream)).await;
        let found: Vec<String> =
            found.into_iter().map(|event| event.unwrap().id.to_string()).collect();
        assert_eq!(found, (0..1500).rev().map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_name_that_is_too_long_is_refused_with_its_length() {
    let Some((_broker, url)) = url().await else { return };
    let api = "x".repeat(300);
    let process = transports(&json!({"url": url}), json!({}));
    let error = soon(process.event.send(&[event("1", &api)])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
    let limit = Duration::from_secs(1);
    let call = crate::support::call(&api, "1", "amq.rabbitmq.reply-to.x", limit);
    let error = soon(process.rpc.call(call)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge, "{error:?}");
}
