//! What is this transport's own: limits, one broker for each factory, tokio's time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use lightbus_core::{
    Arguments, ConfigSection, ErrorKind, EventMessage, FlowControl, Headers, Name, Outcome, Result,
    Retry, ReturnPath, RpcMessage, Subscription, TransportFactory,
    transport::{
        EventSelector, EventTransport, GroupSpec, HistorySpec, ListenSpec, RpcTransport, ServeSpec,
        Start,
    },
};
use lightbus_transport_memory::MemoryFactory;
use serde_json::json;
use tokio::time::{Instant, advance, timeout};

fn section(options: serde_json::Value) -> ConfigSection {
    ConfigSection::new("apis.default.event_transport.memory", options)
}

fn events(factory: &MemoryFactory, options: serde_json::Value) -> Arc<dyn EventTransport> {
    factory.event(&section(options)).expect("the transport")
}

fn event(n: usize) -> EventMessage {
    EventMessage::new(n.to_string(), "shop", "sold", 1, Arguments::new())
}

fn listener(name: &str, start: Start) -> ListenSpec {
    ListenSpec {
        group: GroupSpec::new("service", name),
        process: "process".into(),
        events: vec![EventSelector::one("shop", "sold")],
        start,
        flow: FlowControl::new(10, 10),
    }
}

async fn next_id(events: &mut Subscription<EventMessage>) -> String {
    let delivery = events.next().await.expect("not the end").expect("a delivery");
    delivery.ack.settle_later(Outcome::Done);
    delivery.message.id.to_string()
}

fn call(id: &str, time_left: Duration) -> RpcMessage {
    RpcMessage {
        id: id.into(),
        api: "shop".into(),
        procedure: "sell".into(),
        fields: Arguments::from_iter([(Name::from("n"), Bytes::from_static(b"1"))]),
        headers: Headers::new(),
        return_path: ReturnPath::new("memory://1"),
        deadline: Instant::now() + time_left,
    }
}

#[test]
fn options_are_checked_with_their_path() {
    let factory = MemoryFactory::default();
    for (options, wrong) in [
        (json!({ "max_stream_lenght": 1 }), "max_stream_lenght"),
        (json!({ "max_stream_length": 0 }), "max_stream_length"),
        (json!({ "max_queue_length": "many" }), "max_queue_length"),
    ] {
        let section = section(options);
        let errors = [
            factory.rpc(&section).err(),
            factory.result(&section).err(),
            factory.event(&section).err(),
            factory.schema(&section).err(),
        ];
        for error in errors {
            let error = error.expect("refused by each kind");
            assert_eq!(error.kind(), ErrorKind::Config);
            let text = error.to_string();
            assert!(text.contains("apis.default.event_transport.memory"), "{text}");
            assert!(text.contains(wrong), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_calls_until_some_have_gone() {
    let factory = MemoryFactory::default();
    let rpc: Arc<dyn RpcTransport> =
        factory.rpc(&section(json!({ "max_queue_length": 3 }))).unwrap();
    for id in ["1", "2", "3"] {
        rpc.call(call(id, Duration::from_secs(if id == "2" { 1 } else { 60 }))).await.unwrap();
    }
    let error = rpc.call(call("4", Duration::from_secs(60))).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unavailable, Retry::Safe));
    // One has expired: it makes room by itself.
    advance(Duration::from_secs(2)).await;
    rpc.call(call("5", Duration::from_secs(60))).await.unwrap();
    assert!(rpc.call(call("6", Duration::from_secs(60))).await.is_err());
    let spec =
        ServeSpec { apis: vec!["shop".into(), "shop".into()], flow: FlowControl::new(10, 10) };
    let mut calls = rpc.serve(spec).await.unwrap();
    for id in ["1", "3", "5"] {
        let call = calls.next().await.unwrap().unwrap();
        assert_eq!(&*call.message.id, id);
    }
    assert!(timeout(Duration::from_secs(1), calls.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_log_keeps_the_newest_and_a_slow_listener_goes_on_there() -> Result<()> {
    let factory = MemoryFactory::default();
    let events = events(&factory, json!({ "max_stream_length": 5 }));
    events.listen(listener("slow", Start::New)).await?.close().await?;
    for n in 0..12 {
        events.send(&[event(n)]).await?;
    }
    let mut slow = events.listen(listener("slow", Start::New)).await?;
    let mut new = events.listen(listener("new", Start::Earliest)).await?;
    for n in 7..12 {
        assert_eq!(next_id(&mut slow).await, n.to_string());
        assert_eq!(next_id(&mut new).await, n.to_string());
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn dead_letters_keep_the_newest() -> Result<()> {
    let factory = MemoryFactory::default();
    let events = events(&factory, json!({ "max_dead_letters": 2 }));
    let mut rejecting = events.listen(listener("l", Start::New)).await?;
    for n in 0..4 {
        events.send(&[event(n)]).await?;
        let delivery = rejecting.next().await.unwrap()?;
        delivery.ack.settle(Outcome::Reject("no".into())).await?;
    }
    let letters =
        events.require_dead_letters()?.list(&GroupSpec::new("service", "l"), None, 10).await?;
    let ids: Vec<_> = letters.iter().map(|letter| letter.event.id.to_string()).collect();
    assert_eq!(ids, ["2", "3"]);
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn deliveries_are_counted() -> Result<()> {
    let factory = MemoryFactory::default();
    let events = events(&factory, json!({}));
    events.listen(listener("l", Start::New)).await?.close().await?;
    events.send(&[event(1)]).await?;
    for attempt in 1..4 {
        let mut listening = events.listen(listener("l", Start::New)).await?;
        let delivery = listening.next().await.unwrap()?;
        assert_eq!(delivery.message.attempt, attempt);
        drop(delivery);
        listening.close().await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn time_is_tokios() -> Result<()> {
    let factory = MemoryFactory::default();
    let (rpc, schemas) = (factory.rpc(&section(json!({})))?, factory.schema(&section(json!({})))?);
    let events = events(&factory, json!({}));
    let hour = Duration::from_secs(3600);

    rpc.call(call("1", hour)).await?;
    let document = serde_json::value::to_raw_value("schema").unwrap();
    schemas.store("shop", &document, hour).await?;
    schemas.store("for ever", &document, Duration::MAX).await?;
    events.send(&[event(1)]).await?;
    advance(hour + Duration::from_secs(1)).await;
    events.send(&[event(2)]).await?;

    let mut calls =
        rpc.serve(ServeSpec { apis: vec!["shop".into()], flow: FlowControl::new(1, 1) }).await?;
    assert!(timeout(Duration::from_secs(1), calls.next()).await.is_err(), "the call has expired");
    assert_eq!(schemas.load().await?.into_keys().collect::<Vec<_>>(), ["for ever"]);
    let spec = HistorySpec { events: EventSelector::all("shop"), from: None, until: None };
    let history: Vec<_> = futures_util::StreamExt::collect(events.history(spec).await?).await;
    let times: Vec<_> = history.into_iter().map(|event| event.unwrap().time.unwrap()).collect();
    assert_eq!(times[0].duration_since(times[1]).unwrap(), hour + Duration::from_secs(1));
    Ok(())
}

#[tokio::test]
async fn each_factory_has_a_broker_and_its_clones_share_it() -> Result<()> {
    let (factory, other) = (MemoryFactory::default(), MemoryFactory::default());
    let mut here = events(&factory.clone(), json!({})).listen(listener("l", Start::New)).await?;
    events(&other, json!({})).send(&[event(1)]).await?;
    events(&factory, json!({})).send(&[event(2)]).await?;
    assert_eq!(next_id(&mut here).await, "2");
    Ok(())
}

#[tokio::test]
async fn a_listener_to_few_of_many_finds_them() -> Result<()> {
    let events = events(&MemoryFactory::default(), json!({}));
    let many: Vec<_> = (0..10_000)
        .map(|n| EventMessage { event: "seen".into(), ..event(n) })
        .chain([event(10_000)])
        .collect();
    events.send(&many).await?;
    let mut listening = events.listen(listener("l", Start::Earliest)).await?;
    assert_eq!(next_id(&mut listening).await, "10000");
    Ok(())
}

/// As when a new version of a service listens to more than the old one, which still runs.
#[tokio::test]
async fn consumers_of_one_group_may_want_different_apis() {
    let events = events(&MemoryFactory::default(), json!({}));
    let mut old = events.listen(listener("mail", Start::New)).await.expect("listening");
    let mut new = listener("mail", Start::New);
    new.events = vec![EventSelector::one("depot", "sold")];
    let mut new = events.listen(new).await.expect("listening");
    for round in 0..20 {
        // The old one is the first in the line of those who wait.
        assert!(timeout(Duration::from_millis(5), old.next()).await.is_err());
        let sold = EventMessage { api: "depot".into(), ..event(round) };
        events.send(&[sold]).await.expect("sending");
        let id = timeout(Duration::from_secs(5), next_id(&mut new)).await.expect("woken");
        assert_eq!(id, round.to_string());
    }
}
