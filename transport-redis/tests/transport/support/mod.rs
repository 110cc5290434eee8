//! Transports on Redis servers, and connections of the test's own.
#![allow(dead_code, unreachable_pub, reason = "what needs features uses a part")]

use lightbus_core::{
    EventMessage, FlowControl, TransportKind,
    conformance::Transports,
    transport::{EventSelector, GroupSpec, ListenSpec, Start},
};
use lightbus_test_brokers::{RedisServer, with};
use lightbus_transport_redis::RedisFactory;
use serde_json::{Value, json};

pub use lightbus_test_brokers::{LIMIT, call, eventually, fields};

/// A connection of the test's own.
pub async fn connect(url: &str) -> Redis {
    let client = redis::Client::open(url).unwrap();
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
    Redis(client.get_multiplexed_async_connection_with_config(&config).await.unwrap())
}

/// Commands as text.
pub struct Redis(pub redis::aio::MultiplexedConnection);

impl Redis {
    pub async fn run<T: redis::FromRedisValue>(&mut self, command: &[&str]) -> T {
        self.try_run(command).await.unwrap()
    }

    pub async fn try_run<T: redis::FromRedisValue>(
        &mut self,
        command: &[&str],
    ) -> redis::RedisResult<T> {
        let mut made = redis::cmd(command[0]);
        for argument in &command[1..] {
            made.arg(*argument);
        }
        made.query_async(&mut self.0).await
    }
}

/// The transports of a process, with all defaults.
pub fn on(server: &RedisServer) -> Transports {
    with_events(server, json!({}))
}

/// Those with these options of the event transport.
pub fn with_events(server: &RedisServer, event: Value) -> Transports {
    transports(&json!({"url": server.url()}), event)
}

/// Those with these options, and these of the event transport.
pub fn transports(common: &Value, event: Value) -> Transports {
    Transports::new(&RedisFactory::default(), |kind| match kind {
        TransportKind::Event => with(common, &event),
        TransportKind::Rpc | TransportKind::Result | TransportKind::Schema => common.clone(),
    })
}

/// What comes within the limit.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    lightbus_test_brokers::soon("what the test waits for", work).await
}

/// An event whose id tells it from others.
pub fn event(id: &str, name: &str) -> EventMessage {
    EventMessage::new(id, "shop.till", name, 2, fields(&[("sku", "\"pen\""), ("price", "1.10")]))
}

pub fn listen(process: &str, start: Start) -> ListenSpec {
    ListenSpec {
        group: greeter(),
        process: process.into(),
        events: vec![EventSelector::one("shop.till", "opened")],
        start,
        flow: FlowControl::new(100, 400),
    }
}

/// The group of [`listen`].
pub fn greeter() -> GroupSpec {
    GroupSpec::new("shop", "greeter")
}
