//! Transports on Kafkas, and what is put there past them.
#![allow(dead_code, unreachable_pub, reason = "what needs features uses a part")]

use std::time::Duration;

use lightbus_core::{
    EventMessage, FlowControl, TransportKind,
    conformance::Transports,
    transport::{EventSelector, GroupSpec, ListenSpec, Start},
};
use lightbus_test_brokers::{fields, with};
use lightbus_transport_kafka::KafkaFactory;
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};

pub use lightbus_test_brokers::{LIMIT, call, eventually, shared_kafka as brokers, unique};

/// A process that is not heard of for this long counts as dead.
pub const SESSION: Duration = Duration::from_secs(2);

/// The transports of a process with the options of tests: short sessions, and errors soon.
pub fn on(brokers: &str) -> Transports {
    transports(&options(brokers), json!({}))
}

/// Those with these options, and these of the event transport.
pub fn transports(common: &Value, event: Value) -> Transports {
    let session = with(common, &json!({"session_timeout": SESSION.as_secs_f64()}));
    Transports::new(&KafkaFactory::default(), |kind| match kind {
        TransportKind::Rpc => session.clone(),
        TransportKind::Event => with(&session, &event),
        TransportKind::Result | TransportKind::Schema => common.clone(),
    })
}

pub fn options(brokers: &str) -> Value {
    json!({"brokers": brokers, "timeout": 5, "send_timeout": 5, "partitions": 4})
}

/// Puts a record into a topic that is there, past the transport.
pub async fn put(
    brokers: &str,
    topic: &str,
    partition: i32,
    key: &str,
    payload: &str,
    headers: &[(&str, &str)],
) {
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("linger.ms", "0")
        .create()
        .unwrap();
    let mut found = rdkafka::message::OwnedHeaders::new();
    for (key, value) in headers {
        found = found.insert(rdkafka::message::Header { key, value: Some(*value) });
    }
    let record =
        FutureRecord::to(topic).partition(partition).key(key).payload(payload).headers(found);
    producer.send(record, LIMIT).await.unwrap();
}

/// What comes within the limit.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    lightbus_test_brokers::soon("what the test waits for", work).await
}

/// An event whose id tells it from others.
pub fn event(api: &str, id: &str, key: Option<&str>) -> EventMessage {
    let fields = fields(&[("sku", "\"pen\""), ("price", "1.10")]);
    EventMessage { key: key.map(Into::into), ..EventMessage::new(id, api, "opened", 2, fields) }
}

pub fn listen(api: &str, process: &str, start: Start) -> ListenSpec {
    ListenSpec {
        group: GroupSpec::new(format!("{api}-shop"), "greeter"),
        process: process.into(),
        events: vec![EventSelector::one(api, "opened")],
        start,
        flow: FlowControl::new(100, 400),
    }
}
