//! Transports on Redis servers, and connections of the test's own.
#![allow(dead_code, unreachable_pub, reason = "what needs features uses a part")]

use std::{sync::Arc, time::Duration};

use lightbus_core::{
    Arguments, ConfigSection, EventMessage, FlowControl, Headers, RpcMessage, TransportFactory,
    transport::{
        DeadLetters, EventSelector, EventTransport, GroupSpec, ListenSpec, ResultTransport,
        RpcTransport, SchemaTransport, Start,
    },
};
use lightbus_test_brokers::RedisServer;
use lightbus_transport_redis::RedisFactory;
use serde_json::{Value, json};
use tokio::time::Instant;

pub use lightbus_test_brokers::{LIMIT, eventually};

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

/// The four transports of a process.
pub struct Process {
    pub rpc: Arc<dyn RpcTransport>,
    pub result: Arc<dyn ResultTransport>,
    pub event: Arc<dyn EventTransport>,
    pub schema: Arc<dyn SchemaTransport>,
}

impl Process {
    /// With all defaults.
    pub fn on(server: &RedisServer) -> Self {
        Self::with_events(server, json!({}))
    }

    /// With these options of the event transport.
    pub fn with_events(server: &RedisServer, event: Value) -> Self {
        Self::new(&json!({"url": server.url()}), event)
    }

    pub fn new(common: &Value, event: Value) -> Self {
        let factory = RedisFactory::default();
        let section = |more: Value| {
            let mut options = common.clone();
            let (Some(options_map), Value::Object(more)) = (options.as_object_mut(), more) else {
                panic!("options are objects")
            };
            options_map.extend(more);
            ConfigSection::new("test", options)
        };
        Self {
            rpc: factory.rpc(&section(json!({}))).unwrap(),
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
