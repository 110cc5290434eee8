//! Transports on RabbitMQs, and what is put there past them.
#![allow(dead_code, unreachable_pub, reason = "what needs features uses a part")]

use std::{env, time::Duration};

use lightbus_core::{
    EventMessage, FlowControl, TransportKind,
    conformance::Transports,
    transport::{EventSelector, GroupSpec, ListenSpec, Start},
};
use lightbus_test_brokers::{RabbitServer, fields, with};
use lightbus_transport_amqp::AmqpFactory;
use serde_json::{Value, json};

pub use lightbus_test_brokers::{LIMIT, call, eventually, unique};

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

/// Sends a message to a caller's reply channel.
pub async fn reply(url: &str, to: &str, properties: lapin::BasicProperties, body: &[u8]) {
    let (connection, channel) = channel(url).await;
    soon(channel.confirm_select(Default::default())).await.unwrap();
    let options = lapin::options::BasicPublishOptions::default();
    let confirm = channel.basic_publish("".into(), to.into(), options, body, properties);
    assert!(soon(soon(confirm).await.unwrap()).await.unwrap().is_ack());
    soon(connection.close(200, "done".into())).await.unwrap();
}

/// Deletes a queue.
pub async fn delete_queue(url: &str, queue: &str) {
    let (connection, channel) = channel(url).await;
    soon(channel.queue_delete(queue.into(), Default::default())).await.unwrap();
    soon(connection.close(200, "done".into())).await.unwrap();
}

/// The transports of a process, with all defaults.
pub fn on(server: &RabbitServer) -> Transports {
    transports(&json!({"url": server.url()}), json!({}))
}

/// Those with these options, and these of the event transport.
pub fn transports(common: &Value, event: Value) -> Transports {
    transports_with(common, event, json!({}))
}

pub fn transports_with(common: &Value, event: Value, rpc: Value) -> Transports {
    transports_of(common, event, rpc, json!({}))
}

pub fn transports_of(common: &Value, event: Value, rpc: Value, result: Value) -> Transports {
    Transports::new(&AmqpFactory::default(), |kind| match kind {
        TransportKind::Event => with(common, &event),
        TransportKind::Rpc => with(common, &rpc),
        TransportKind::Result => with(common, &result),
        TransportKind::Schema => common.clone(),
    })
}

/// What comes within the limit.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    lightbus_test_brokers::soon("what the test waits for", work).await
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
