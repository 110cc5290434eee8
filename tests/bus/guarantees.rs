//! An API that relies on what its transport cannot do is refused at start.

use lightbus::{
    ErrorKind,
    config::{Config, OnMissing},
    prelude::*,
    transport::Capabilities,
};
use lightbus_tests::{Place, on_every_transport};

#[lightbus::api(name = "orders", events(Placed), requires(ordered, history, dead_letters))]
pub trait Orders {}

#[derive(Debug, lightbus::Event)]
pub struct Placed {
    pub number: u64,
}

#[lightbus::api(name = "ledger", requires(durable, ordered, shared))]
pub trait Ledger {
    async fn balance(&self) -> u64;
}

struct Service;

impl Ledger for Service {
    async fn balance(&self) -> u64 {
        7
    }
}

#[lightbus::api(
    name = "everything",
    requires(
        durable,
        ordered,
        ordered_by_key,
        replay,
        history,
        lag,
        dead_letters,
        shared,
        resumes
    )
)]
pub trait Everything {}

#[test]
fn an_api_may_require_every_capability_by_its_name() {
    let names: Vec<_> = Capabilities::default().iter().map(|(name, _)| name).collect();
    assert_eq!(EverythingClient::contract().requires, names);
    assert_eq!(OrdersClient::contract().requires, ["ordered", "history", "dead_letters"]);
}

on_every_transport!(what_the_transport_can_do_is_served, order_by_key_needs_a_key_in_each_event);

async fn what_the_transport_can_do_is_served(place: Place) {
    // RabbitMQ keeps the past only if it is told to, and Kafka orders only events that have a key.
    let can = matches!(place, Place::Memory(_) | Place::Redis(_));
    let bus = place.bus("orders").await;
    assert_eq!(bus.register(OrdersClient::contract()).await.is_ok(), can);
    let shared = !matches!(place, Place::Memory(_));
    let served = bus.serve(LedgerApi(Service)).await;
    assert_eq!(served.is_ok(), shared, "{served:?}");
    bus.close().await.unwrap();
}

/// Events that all have a key.
#[lightbus::api(name = "parcels", events(Sent), requires(ordered))]
pub trait Parcels {}

#[lightbus::api(name = "parcels.across", events(Carried), requires(ordered_by_key))]
pub trait Across {}

/// Events of which one has no key.
#[lightbus::api(name = "letters", events(Posted, Stamped), requires(ordered))]
pub trait Letters {}

#[derive(Debug, lightbus::Event)]
#[event(key = "to")]
pub struct Sent {
    pub to: String,
}

#[derive(Debug, lightbus::Event)]
#[event(key = "to")]
pub struct Carried {
    pub to: String,
}

#[derive(Debug, lightbus::Event)]
#[event(key = "to")]
pub struct Posted {
    pub to: String,
}

#[derive(Debug, lightbus::Event)]
pub struct Stamped {}

async fn order_by_key_needs_a_key_in_each_event(place: Place) {
    let bus = place.bus("post").await;
    bus.register(ParcelsClient::contract()).await.unwrap();
    let letters = bus.register(LettersClient::contract()).await;
    let across = bus.register(AcrossClient::contract()).await;
    if !matches!(place, Place::Kafka { .. }) {
        letters.unwrap();
        // With several processes, none of these keeps order, whatever the keys.
        let error = across.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("cannot do: ordered_by_key"), "{error}");
        return;
    }
    across.unwrap();
    let error = letters.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    for part in [
        "`letters` requires what the transport `kafka` cannot do: ordered",
        "events without a key stamped",
        "events that share a key: declare one with `#[event(key = \"…\")]`",
        "at apis.default.event_transport",
        "`apis.default.on_missing: warn`",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// One process of a listener consumes while the others stand by: order needs no key then.
#[cfg(feature = "amqp")]
#[tokio::test]
async fn a_single_active_consumer_keeps_order_across_processes() {
    let Some(place) = Place::amqp() else { return };
    let yaml = place.yaml("").replace("prefix:", "single_active_consumer: true, prefix:");
    // Only events know the option.
    let (before, events) = yaml.split_at(yaml.find("event_transport").unwrap());
    let yaml = format!("{}{events}", before.replace("single_active_consumer: true, ", ""));
    let config = Config::from_yaml(&yaml).unwrap();
    let bus = Bus::builder().config(config).service_name("post").connect().await.unwrap();
    bus.register(AcrossClient::contract()).await.unwrap();
    bus.register(LettersClient::contract()).await.unwrap();
}

#[tokio::test]
async fn what_it_cannot_do_is_told_with_the_line_to_change() {
    let bus = Bus::in_memory().await.unwrap();
    let error = bus.serve(LedgerApi(Service)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let text = error.to_string();
    for part in [
        "serving ledger",
        "`ledger` requires what the transport `memory` cannot do: durable, shared",
        "at apis.default.event_transport",
        "or accept it with `apis.default.on_missing: warn`",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Nothing is left of it: nobody waits for an answer that never comes.
    assert!(bus.remote_apis().await.unwrap().is_empty());
    let again = bus.serve(LedgerApi(Service)).await.unwrap_err().to_string();
    assert!(again.contains("requires"), "{again}");
}

#[tokio::test]
async fn it_is_served_all_the_same_if_the_configuration_says_so() {
    let yaml = "apis:\n  ledger: { on_missing: warn, event_transport: { memory: {} } }\n  default:\n    rpc_transport: { memory: {} }\n    result_transport: { memory: {} }\nbus: { schema: { transport: { memory: {} } } }\n";
    let mut config = Config::from_yaml(yaml).unwrap();
    let bus = Bus::builder().config(config.clone()).connect().await.unwrap();
    bus.serve(LedgerApi(Service)).await.unwrap();
    assert_eq!(LedgerClient::new(&bus).balance().await.unwrap(), 7);

    config.apis.get_mut("ledger").unwrap().on_missing = OnMissing::Refuse;
    let bus = Bus::builder().config(config).connect().await.unwrap();
    let text = bus.serve(LedgerApi(Service)).await.unwrap_err().to_string();
    assert!(text.contains("at apis.ledger.event_transport"), "{text}");
    assert!(text.contains("`apis.ledger.on_missing: warn`"), "{text}");
}
