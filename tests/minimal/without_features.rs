//! What a program has that switches off `validation` and `yaml`, and how it refuses what needs them.
//!
//! `cargo test -p lightbus-minimal-tests --test without_features`
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]
#![allow(missing_docs, unreachable_pub, reason = "contracts of tests")]

use std::time::Duration;

use lightbus::{
    ErrorKind,
    config::{ApiConfig, Config, Validate},
    prelude::*,
    schema::Schema,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[lightbus::api(name = "shop", events(Sold))]
pub trait Shop {
    async fn price(&self, item: String, count: u8) -> f64;
}

#[derive(Debug, lightbus::Event)]
pub struct Sold {
    pub item: String,
}

struct Service;

impl Shop for Service {
    async fn price(&self, _item: String, count: u8) -> f64 {
        f64::from(count) * 1.5
    }
}

async fn served() -> Bus {
    let bus = Bus::in_memory().await.unwrap();
    bus.serve(ShopApi(Service)).await.unwrap();
    bus
}

fn connecting(config: Value) -> lightbus::Result<()> {
    Bus::builder().config(Config::from_value(config)?).check().map(drop)
}

#[tokio::test]
async fn calls_and_events_go_through() {
    let bus = served().await;
    let (sold, mut seen) = mpsc::unbounded_channel();
    bus.listen("count", move |event: Sold| {
        let sold = sold.clone();
        async move {
            sold.send(event.item).unwrap();
            Ok(())
        }
    })
    .await
    .unwrap();
    assert_eq!(ShopClient::new(&bus).price("tea", 4).await.unwrap(), 6.0);
    bus.fire(Sold { item: "tea".into() }).await.unwrap();
    let item = tokio::time::timeout(Duration::from_secs(20), seen.recv()).await.unwrap();
    assert_eq!(item.as_deref(), Some("tea"));
    bus.close().await.unwrap();
}

#[tokio::test]
async fn a_worker_refuses_what_its_types_do_not_take() {
    let bus = served().await;
    for (arguments, why) in [
        (args! { item: "tea", count: 300 }, "count"),
        (args! { item: "tea", count: "four" }, "count"),
        (args! { item: "tea" }, "count"),
        (args! { item: "tea", count: 4, colour: "green" }, "colour"),
    ] {
        let error = bus.call::<f64>("shop.price", arguments).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error} lacks {why}");
    }
    bus.close().await.unwrap();
}

#[tokio::test]
async fn a_caller_refuses_a_result_of_another_type() {
    let bus = served().await;
    let result = bus.call::<String>("shop.price", args! { item: "tea", count: 4 }).await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Malformed);
    bus.close().await.unwrap();
}

#[tokio::test]
async fn schemas_are_published_and_compared_nevertheless() {
    let bus = served().await;
    assert_eq!(bus.compare_schema(ShopClient::contract()).await.unwrap(), []);
    let other = Schema::new("shop", json!({ "rpcs": {} })).unwrap();
    assert!(!Schema::compare(&Schema::of(ShopClient::contract()), &other).is_empty());
    bus.close().await.unwrap();
}

#[test]
fn a_configuration_that_asks_for_checks_is_refused_with_the_features_name() {
    for (key, value) in [
        ("validate", json!(true)),
        ("validate", json!({ "incoming": true })),
        ("strict_validation", json!(true)),
    ] {
        let error = connecting(json!({ "apis": { "shop": { key: value } } })).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        assert!(text.contains(&format!("apis.shop.{key}")), "{text}");
        assert!(text.contains("feature `validation`"), "{text}");
    }
    for value in [json!(false), json!({ "outgoing": false })] {
        connecting(json!({ "apis": { "shop": { "validate": value } } })).unwrap();
    }
}

#[test]
fn a_program_that_asks_for_checks_is_refused_too() {
    let mut config = Config::default();
    let validate = Validate { outgoing: true, incoming: false };
    config.apis.entry("shop".into()).or_insert_with(ApiConfig::default).validate = validate;
    let error = Bus::builder().config(config).check().unwrap_err();
    assert!(error.to_string().contains("feature `validation`"), "{error}");
}

#[test]
fn json_files_are_read_and_yaml_files_refused_with_the_features_name() {
    let folder = std::env::temp_dir().join(format!("lightbus-minimal-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let json =
        write("bus.json", r#"{ "service_name": "shop", "bus": { "schema": { "ttl": 30 } } }"#);
    let yaml = write("bus.yaml", "service_name: shop\n");
    let config = Config::from_files([json.as_str()]);
    let refused = Config::from_files([yaml.as_str()]);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(config.unwrap().bus.schema.ttl, Duration::from_secs(30));
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("feature `yaml`") && error.contains("bus.yaml"), "{error}");
}

#[test]
fn variables_have_the_types_of_json() {
    let config = Config::loader()
        .files([])
        .environment([
            ("LIGHTBUS__BUS__SCHEMA__TTL", "30"),
            ("LIGHTBUS__APIS__DEFAULT__VALIDATE", r#"{"outgoing": false}"#),
            ("LIGHTBUS__SERVICE_NAME", "shop"),
        ])
        .load()
        .unwrap();
    assert_eq!(config.bus.schema.ttl, Duration::from_secs(30));
    assert_eq!(config.service_name.as_deref(), Some("shop"));
}

#[test]
fn an_address_says_which_feature_is_missing() {
    let error = Config::load(["https://user:s3cret@example.com/lightbus.yaml"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "reading the configuration: this program was built without support for fetching a configuration over HTTP (file https://user:<hidden>@example.com/lightbus.yaml). Enable lightbus' cargo feature `config-url`, or download the file and name that"
    );
}
