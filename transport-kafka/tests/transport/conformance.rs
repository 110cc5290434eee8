//! The suite that every transport passes, on the Kafka that `LIGHTBUS_TEST_KAFKA_BROKERS` names.

use std::{env, time::Duration};

use crate::support::{LIMIT, SESSION, on, options, put, transports};
use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Name, ReturnPath, RpcMessage,
    conformance::{Able, Breakable, Harness, Transports},
};
use lightbus_test_brokers::{Fault, KafkaServer, Proxy, free_port};
use serde_json::json;
use tokio::sync::Mutex;

struct KafkaHarness {
    brokers: Option<String>,
}

impl KafkaHarness {
    fn new() -> Self {
        Self { brokers: env::var("LIGHTBUS_TEST_KAFKA_BROKERS").ok() }
    }

    fn brokers(&self) -> &str {
        self.brokers.as_deref().unwrap_or_default()
    }
}

#[async_trait]
impl Harness for KafkaHarness {
    fn unavailable(&self) -> Option<String> {
        self.brokers.is_none().then(|| "LIGHTBUS_TEST_KAFKA_BROKERS is not set".into())
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::default();
        all.durable = true;
        all.ordered_by_key = true;
        all.replay = true;
        all.history = true;
        all.lag = true;
        all.backlog = true;
        all.dead_letters = true;
        all.resumes = true;
        all.shared = true;
        all
    }

    async fn connect(&self) -> Transports {
        on(self.brokers())
    }

    fn taken_over_after(&self) -> Duration {
        SESSION
    }

    fn patience(&self) -> Duration {
        LIMIT
    }

    fn shares_a_key(&self) -> bool {
        false
    }

    fn largest(&self) -> usize {
        // All of it must fit into Kafka's default of 1 MB.
        900_000
    }

    async fn nowhere(&self, password: &str) -> Able<Transports> {
        let mut address = options("127.0.0.1:1");
        address["timeout"] = json!(1);
        address["send_timeout"] = json!(1);
        address["sasl"] = json!({"username": "user", "password": password});
        Able::Yes(transports(&address, json!({})))
    }

    async fn malformed_call(&self, api: &str) -> Able {
        let headers =
            [("lightbus-id", "bad"), ("lightbus-procedure", "run"), ("time-left-ms", "60000")];
        put(self.brokers(), &format!("{api}.rpc_queue"), 0, "", "{not json", &headers).await;
        Able::Yes(())
    }

    async fn misdirected_call(&self, as_of: &str, call: &RpcMessage) -> Able {
        let headers = [
            ("lightbus-id", &*call.id),
            ("lightbus-api", &*call.api),
            ("lightbus-procedure", &*call.procedure),
            ("lightbus-return-path", call.return_path.as_str()),
            ("time-left-ms", "60000"),
        ];
        put(self.brokers(), &format!("{as_of}.rpc_queue"), 0, "", "{}", &headers).await;
        Able::Yes(())
    }

    async fn malformed_result(&self, to: &ReturnPath, call: &Name) -> Able {
        let path = to.as_str().strip_prefix("kafka+reply://").unwrap();
        let (topic, partition) = path.rsplit_once('/').unwrap();
        put(self.brokers(), topic, partition.parse().unwrap(), call, "NaN", &[]).await;
        Able::Yes(())
    }

    async fn malformed_event(&self, api: &str, event: &str) -> Able {
        let headers = [("lightbus-id", "bad"), ("lightbus-api", api), ("lightbus-event", event)];
        put(self.brokers(), &format!("{api}.events"), 0, "bad", "{", &headers).await;
        Able::Yes(())
    }

    async fn malformed_schema(&self, api: &str) -> Able {
        let headers = [("lightbus-ttl-ms", "60000")];
        put(self.brokers(), "lightbus.schemas", 0, api, "{", &headers).await;
        Able::Yes(())
    }

    async fn own_broker(&self) -> Able<Box<dyn Breakable>> {
        let port = free_port();
        let proxy = Proxy::start(port).await;
        match KafkaServer::start_advertising(port, proxy.port()).await {
            Some(server) => {
                let brokers = server.brokers();
                Able::Yes(Box::new(OwnBroker { server: Mutex::new(server), proxy, brokers }))
            }
            None => Able::NotApplicable("Kafka cannot be started here"),
        }
    }
}

struct OwnBroker {
    server: Mutex<KafkaServer>,
    proxy: Proxy,
    brokers: String,
}

#[async_trait]
impl Breakable for OwnBroker {
    async fn connect(&self) -> Transports {
        let mut address = options(&self.brokers);
        address["timeout"] = json!(2);
        address["send_timeout"] = json!(2);
        transports(&address, json!({}))
    }

    async fn break_connections(&self) -> Able {
        self.proxy.set(Fault::Cut);
        Able::Yes(())
    }

    async fn stop(&self) {
        self.server.lock().await.kill();
    }

    async fn start(&self) {
        let mut server = self.server.lock().await;
        server.launch();
        server.await_started().await;
    }
}

lightbus_core::conformance!(KafkaHarness::new());
