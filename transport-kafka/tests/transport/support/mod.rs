//! Transports on Kafkas, and what is put there past them.
#![allow(dead_code, unreachable_pub, reason = "what needs features uses a part")]

use std::{sync::Arc, time::Duration};

use lightbus_core::{
    Arguments, ConfigSection, EventMessage, FlowControl, Headers, RpcMessage, TransportFactory,
    transport::{
        EventSelector, EventTransport, GroupSpec, ListenSpec, ResultTransport, RpcTransport,
        SchemaTransport, Start,
    },
};
use lightbus_transport_kafka::KafkaFactory;
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use serde_json::{Value, json};
use tokio::time::Instant;

pub use lightbus_test_brokers::{LIMIT, eventually, shared_kafka as brokers, unique};

/// A process that is not heard of for this long counts as dead.
pub const SESSION: Duration = Duration::from_secs(2);

/// The four transports of a process.
pub struct Process {
    pub rpc: Arc<dyn RpcTransport>,
    pub result: Arc<dyn ResultTransport>,
    pub event: Arc<dyn EventTransport>,
    pub schema: Arc<dyn SchemaTransport>,
}

impl Process {
    /// With the options of tests: short sessions, and errors soon.
    pub fn on(brokers: &str) -> Self {
        Self::new(&options(brokers), json!({}))
    }

    /// With these options of all four, and these of the event transport.
    pub fn new(common: &Value, event: Value) -> Self {
        let factory = KafkaFactory::default();
        let section = |more: Value| {
            let mut options = common.clone();
            let (Some(options_map), Value::Object(more)) = (options.as_object_mut(), more) else {
                panic!("options are objects")
            };
            options_map.extend(more);
            ConfigSection::new("test", options)
        };
        let session = json!({"session_timeout": SESSION.as_secs_f64()});
        let mut event_options = session.clone();
        event_options.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
        Self {
            rpc: factory.rpc(&section(session)).unwrap(),
            result: factory.result(&section(json!({}))).unwrap(),
            event: factory.event(&section(event_options)).unwrap(),
            schema: factory.schema(&section(json!({}))).unwrap(),
        }
    }
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

/// A call of the API.
pub fn call(api: &str, id: &str, return_path: &str, timeout: Duration) -> RpcMessage {
    RpcMessage {
        id: id.into(),
        api: api.into(),
        procedure: "add".into(),
        fields: fields(&[("a", "2"), ("b", "\"é☃\"")]),
        headers: Headers::new(),
        return_path: lightbus_core::ReturnPath::new(return_path),
        deadline: Instant::now() + timeout,
    }
}

pub fn fields(pairs: &[(&str, &str)]) -> Arguments {
    let mut fields = Arguments::new();
    for (name, value) in pairs {
        fields.push(*name, value.as_bytes().to_vec());
    }
    fields
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
