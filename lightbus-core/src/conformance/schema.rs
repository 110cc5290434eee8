//! Schemas: seen by all, until their time to live ends.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, value::RawValue};

use super::{
    Harness,
    kit::{Bus, Process, eventually, in_a_process_that_dies, ok},
};
use crate::Name;

const LONG: Duration = Duration::from_secs(60);

fn schema(text: &str) -> Box<RawValue> {
    let value: Value = serde_json::json!({
        "parameters": { "type": "object", "title": text, "nothing": null, "größe": [1, 2.5, true] },
    });
    serde_json::value::to_raw_value(&value).expect("JSON")
}

/// What is there of these APIs: the bus may have others.
async fn loaded(process: &Process, apis: &[&Name]) -> BTreeMap<String, Value> {
    let mut all = ok("loading schemas", process.schema.load()).await;
    let ours = apis.iter().filter_map(|api| all.remove_entry(&***api));
    ours.map(|(api, raw)| (api, serde_json::from_str(raw.get()).expect("JSON"))).collect()
}

async fn store(process: &Process, api: &Name, schema: &RawValue, ttl: Duration) {
    ok("storing a schema", process.schema.store(api, schema, ttl)).await;
}

fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).expect("JSON")
}

/// A schema that was stored is seen by every process at once.
pub async fn a_stored_schema_is_loaded(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (one, two) = (bus.process().await, bus.process().await);
    let (auth, shop, none) = (bus.name("auth"), bus.name("shop.till"), bus.name("none"));
    assert!(loaded(&two, &[&auth, &shop, &none]).await.is_empty());
    store(&one, &auth, &schema("auth"), LONG).await;
    store(&two, &shop, &schema("shop"), LONG).await;
    let expected = BTreeMap::from([
        (auth.to_string(), value(&schema("auth"))),
        (shop.to_string(), value(&schema("shop"))),
    ]);
    for process in [&one, &two, &bus.process().await] {
        assert_eq!(loaded(process, &[&auth, &shop, &none]).await, expected);
    }
}

/// A schema is there also when its writer is gone.
pub async fn a_schema_outlives_its_writer(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (crashed, closed) = (bus.name("crashed"), bus.name("closed"));
    let reader = bus.process().await;
    let dead = in_a_process_that_dies(async {
        let writer = bus.process().await;
        store(&writer, &crashed, &schema("crashed"), LONG).await;
        writer
    });
    let writer = bus.process().await;
    store(&writer, &closed, &schema("closed"), LONG).await;
    writer.close().await;
    assert_eq!(loaded(&reader, &[&crashed, &closed]).await.len(), 2);
    drop(dead);
}

/// A schema that is not renewed is gone when its time to live ends, and others stay.
pub async fn a_schema_expires(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (one, two) = (bus.process().await, bus.process().await);
    let (short, long) = (bus.name("short"), bus.name("long"));
    store(&one, &long, &schema("long"), LONG).await;
    store(&one, &short, &schema("short"), Duration::from_secs(2)).await;
    assert_eq!(loaded(&two, &[&short, &long]).await.len(), 2, "before its time ends");
    eventually("the schema is gone", async || {
        loaded(&two, &[&short]).await.is_empty().then_some(())
    })
    .await;
    assert_eq!(loaded(&two, &[&long]).await.len(), 1, "the other one stays");
    assert!(!ok("pinging", one.schema.ping(&short, LONG)).await, "it is gone");
    store(&one, &short, &schema("again"), LONG).await;
    assert_eq!(loaded(&two, &[&short]).await[&*short], value(&schema("again")));
}

/// A ping renews a schema without sending it again; storing it again does so too.
pub async fn a_ping_keeps_a_schema_alive(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (one, two) = (bus.process().await, bus.process().await);
    let (pinged, stored, left) = (bus.name("pinged"), bus.name("stored"), bus.name("left"));
    let ttl = Duration::from_secs(2);
    for api in [&pinged, &stored, &left] {
        store(&one, api, &schema("first"), ttl).await;
    }
    // The one that is left goes last, so that the others would be gone before it.
    store(&one, &left, &schema("first"), ttl).await;
    assert!(ok("pinging", two.schema.ping(&pinged, LONG)).await, "any process may renew it");
    store(&two, &stored, &schema("second"), LONG).await;
    eventually("the one that no process renewed is gone", async || {
        loaded(&two, &[&left]).await.is_empty().then_some(())
    })
    .await;
    let found = loaded(&one, &[&pinged, &stored]).await;
    assert_eq!(found.get(&*pinged), Some(&value(&schema("first"))));
    assert_eq!(found.get(&*stored), Some(&value(&schema("second"))));
}

/// A ping says that a schema is not there, and does not make one.
pub async fn an_unknown_schema_cannot_be_pinged(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let process = bus.process().await;
    let api = bus.name("unknown");
    assert!(!ok("pinging", process.schema.ping(&api, LONG)).await);
    assert!(loaded(&process, &[&api]).await.is_empty());
}

/// Of several schemas of one API the last one wins, whoever wrote it.
pub async fn the_last_schema_wins(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (one, two) = (bus.process().await, bus.process().await);
    let api = bus.name("auth");
    for (writer, text) in [(&one, "1"), (&two, "2"), (&one, "3"), (&two, "4")] {
        store(writer, &api, &schema(text), LONG).await;
        for reader in [&one, &two] {
            assert_eq!(loaded(reader, &[&api]).await[&*api], value(&schema(text)));
        }
    }
}

/// What is not JSON is left out; the other schemas are loaded.
pub async fn a_malformed_schema_is_left_out(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let process = bus.process().await;
    let (good, bad) = (bus.name("good"), bus.name("bad"));
    store(&process, &good, &schema("good"), LONG).await;
    let malformed = harness.malformed_schema(&bad).await;
    if malformed.or_say("putting a malformed schema").is_none() {
        return;
    }
    let found = loaded(&process, &[&good, &bad]).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found.contains_key(&*good));
    store(&process, &bad, &schema("better"), LONG).await;
    assert_eq!(loaded(&process, &[&good, &bad]).await.len(), 2);
}
