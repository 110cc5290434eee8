//! Transports on RabbitMQs, and what is put there past them.
#![allow(dead_code, unreachable_pub, reason = "what needs features uses a part")]

use std::{env, sync::Arc, time::Duration};

use lightbus_core::{
    Arguments, ConfigSection, EventMessage, FlowControl, Headers, RpcMessage, TransportFactory,
    transport::{
        DeadLetters, EventSelector, EventTransport, GroupSpec, ListenSpec, ResultTransport,
        RpcTransport, SchemaTransport, Start,
    },
};
use lightbus_test_brokers::RabbitServer;
use lightbus_transport_amqp::AmqpFactory;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use lightbus_test_brokers::{LIMIT, eventually, unique};

/// A broker to share: the one that the environment names, or one of the test's own.
pub enum Shared {
    Named(String),
    Own(RabbitServer),
    None,
}

impl Shared {
    pub async fn new() -> Self {
        match env::var("LIGHTBUS_TEST_AMQP_URL") {
            Ok(url) => Self::Named(url),
            Err(_) => RabbitServer::start().await.map_or(Self::None, Self::Own),
        }
    }

    pub fn url(&self) -> Option<String> {
        match self {
            Self::Named(url) => Some(url.clone()),
            Self::Own(server) => Some(server.url()),
            Self::None => None,
        }
    }
}

/// A connection of the test's own, with a channel.
pub async fn channel(url: &str) -> (lapin::Connection, lapin::Channel) {
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default());
    let connection = soon(connection).await.unwrap();
    let channel = soon(connection.create_channel()).await.unwrap();
    (connection, channel)
}

/// Publishes something as it is.
pub async fn publish(
    url: &str,
    exchange: &str,
    key: &str,
    properties: lapin::BasicProperties,
    body: &[u8],
) {
    let (connection, channel) = channel(url).await;
    soon(channel.confirm_select(Default::default())).await.unwrap();
    let options = lapin::options::BasicPublishOptions { mandatory: true, immediate: false };
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties);
    let confirmed = soon(soon(confirm).await.unwrap()).await.unwrap();
    assert!(confirmed.is_ack() && confirmed.take_message().is_none(), "it went nowhere: {key}");
    soon(connection.close(200, "done".into())).await.unwrap();
}

/// Deletes a queue.
pub async fn delete_queue(url: &str, queue: &str) {
    let (connection, channel) = channel(url).await;
    soon(channel.queue_delete(queue.into(), Default::default())).await.unwrap();
    soon(connection.close(200, "done".into())).await.unwrap();
}

/// The four transports of a process.
pub struct Process {
    pub rpc: Arc<dyn RpcTransport>,
    pub result: Arc<dyn ResultTransport>,
    pub event: Arc<dyn EventTransport>,
    pub schema: Arc<dyn SchemaTransport>,
}

impl Process {
    /// With all defaults.
    pub fn on(server: &RabbitServer) -> Self {
        Self::new(&json!({"url": server.url()}), json!({}))
    }

    pub fn new(common: &Value, event: Value) -> Self {
        Self::with(common, event, json!({}))
    }

    pub fn with(common: &Value, event: Value, rpc: Value) -> Self {
        let factory = AmqpFactory::default();
        let section = |more: Value| {
            let mut options = common.clone();
            let (Some(options_map), Value::Object(more)) = (options.as_object_mut(), more) else {
                panic!("options are objects")
            };
            options_map.extend(more);
            ConfigSection::new("test", options)
        };
        Self {
            rpc: factory.rpc(&section(rpc)).unwrap(),
            result: factory.result(&section(json!({}))).unwrap(),
            event: factory.event(&section(event)).unwrap(),
            schema: factory.schema(&section(json!({}))).unwrap(),
        }
    }

    pub fn dead_letters(&self) -> &dyn DeadLetters {
        self.event.require_dead_letters().unwrap()
    }
}

/// What comes within the limit.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    lightbus_test_brokers::soon("what the test waits for", work).await
}

/// A call without arguments.
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
pub fn event(id: &str, api: &str) -> EventMessage {
    let fields = fields(&[("sku", "\"pen\""), ("price", "1.10")]);
    EventMessage::new(id, api, "opened", 2, fields)
}

pub fn listen(api: &str, process: &str) -> ListenSpec {
    ListenSpec {
        group: GroupSpec::new("shop", format!("greeter-of-{api}")),
        process: process.into(),
        events: vec![EventSelector::one(api, "opened")],
        start: Start::New,
        flow: FlowControl::new(100, 400).close_within(Duration::from_secs(2)),
    }
}
