//! The suite that every transport passes, on the RabbitMQ that `LIGHTBUS_TEST_AMQP_URL` names, or on
//! one of the test's own: with streams that keep the past, and without.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use crate::support::{Shared, transports};
use async_trait::async_trait;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use lightbus_core::{
    Capabilities, Name, ReturnPath, RpcMessage,
    conformance::{Able, Breakable, Harness, Transports},
};
use lightbus_test_brokers::RabbitServer;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// One broker for all cases that run now: it takes seconds to start.
static SHARED: Mutex<Weak<Shared>> = Mutex::const_new(Weak::new());

struct AmqpHarness {
    broker: Arc<Shared>,
    url: String,
    history: bool,
}

impl AmqpHarness {
    async fn new(history: bool) -> Self {
        let mut shared = SHARED.lock().await;
        let broker = match shared.upgrade() {
            Some(broker) => broker,
            None => {
                let broker = Arc::new(Shared::new().await);
                *shared = Arc::downgrade(&broker);
                broker
            }
        };
        let url = broker.url().unwrap_or_default();
        Self { broker, url, history }
    }
}

fn at(url: &str, history: bool) -> Transports {
    let event = if history { json!({"history": {"max_bytes": 8 << 20}}) } else { json!({}) };
    transports(&json!({"url": url}), event)
}

#[async_trait]
impl Harness for AmqpHarness {
    fn unavailable(&self) -> Option<String> {
        matches!(*self.broker, Shared::None)
            .then(|| "LIGHTBUS_TEST_AMQP_URL is not set, and rabbitmq-server is not there".into())
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::default();
        all.durable = true;
        all.ordered = true;
        all.replay = self.history;
        all.history = self.history;
        all.lag = true;
        all.backlog = true;
        all.dead_letters = true;
        all.resumes = true;
        all.shared = true;
        all
    }

    async fn connect(&self) -> Transports {
        at(&self.url, self.history)
    }

    fn taken_over_after(&self) -> Duration {
        Duration::ZERO
    }

    async fn nowhere(&self, password: &str) -> Able<Transports> {
        let address: Value = json!({
            "url": format!("amqp://user:{password}@127.0.0.1:1/%2f"),
            "connect_timeout": 1,
        });
        Able::Yes(transports(&address, json!({})))
    }

    async fn malformed_call(&self, api: &str) -> Able {
        let queue = format!("{api}.rpc_queue");
        crate::support::publish(&self.url, "", &queue, BasicProperties::default(), b"{not json")
            .await;
        Able::Yes(())
    }

    async fn misdirected_call(&self, _as_of: &str, _call: &RpcMessage) -> Able {
        Able::NotApplicable("the queue alone names the API of a call")
    }

    async fn malformed_result(&self, to: &ReturnPath, call: &Name) -> Able {
        let properties = BasicProperties::default()
            .with_correlation_id((**call).into())
            .with_type("error".into());
        crate::support::reply(&self.url, to.as_str(), properties, b"{").await;
        Able::Yes(())
    }

    async fn malformed_event(&self, api: &str, event: &str) -> Able {
        let key = format!("{api}.{event}");
        let properties = BasicProperties::default().with_message_id("bad".into());
        crate::support::publish(&self.url, "lightbus.events", &key, properties, b"{").await;
        Able::Yes(())
    }

    async fn malformed_schema(&self, api: &str) -> Able {
        let mut headers = FieldTable::default();
        headers.insert("lightbus-api".into(), AMQPValue::LongString(api.into()));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_millis()).unwrap();
        headers.insert("lightbus-time".into(), AMQPValue::LongLongInt(now));
        headers.insert("lightbus-ttl".into(), AMQPValue::LongLongInt(60_000));
        let properties = BasicProperties::default().with_headers(headers);
        crate::support::publish(&self.url, "", "lightbus.schemas", properties, b"{").await;
        Able::Yes(())
    }

    async fn own_broker(&self) -> Able<Box<dyn Breakable>> {
        match RabbitServer::start().await {
            Some(server) => {
                let url = server.url();
                let history = self.history;
                Able::Yes(Box::new(OwnBroker { server: Mutex::new(server), url, history }))
            }
            None => Able::NotApplicable("RabbitMQ cannot be started here"),
        }
    }
}

struct OwnBroker {
    server: Mutex<RabbitServer>,
    url: String,
    history: bool,
}

#[async_trait]
impl Breakable for OwnBroker {
    async fn connect(&self) -> Transports {
        at(&self.url, self.history)
    }

    async fn break_connections(&self) -> Able {
        self.server.lock().await.ctl(&["close_all_connections", "a test"]).await;
        Able::Yes(())
    }

    async fn stop(&self) {
        self.server.lock().await.stop().await;
    }

    async fn start(&self) {
        self.server.lock().await.restart().await;
    }
}

mod with_history {
    use super::AmqpHarness;

    lightbus_core::conformance!(AmqpHarness::new(true).await);
}

mod without_history {
    use super::AmqpHarness;

    lightbus_core::conformance!(AmqpHarness::new(false).await);
}
