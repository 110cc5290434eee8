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
    requires(durable, ordered, replay, history, lag, dead_letters, shared, resumes)
)]
pub trait Everything {}

#[test]
fn an_api_may_require_every_capability_by_its_name() {
    let names: Vec<_> = Capabilities::default().iter().map(|(name, _)| name).collect();
    assert_eq!(EverythingClient::contract().requires, names);
    assert_eq!(OrdersClient::contract().requires, ["ordered", "history", "dead_letters"]);
}

on_every_transport!(what_the_transport_can_do_is_served);

async fn what_the_transport_can_do_is_served(place: Place) {
    // RabbitMQ keeps the past only if it is told to.
    let history = !place.yaml("").contains("amqp");
    let bus = place.bus("orders").await;
    assert_eq!(bus.register(OrdersClient::contract()).await.is_ok(), history);
    let shared = !matches!(place, Place::Memory(_));
    let served = bus.serve(LedgerApi(Service)).await;
    assert_eq!(served.is_ok(), shared, "{served:?}");
    bus.close().await.unwrap();
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
