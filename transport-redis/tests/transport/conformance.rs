//! The suite that every transport passes, on the Redis that `LIGHTBUS_TEST_REDIS_URL` names, or on
//! one of the test's own.

use std::{env, time::Duration};

use crate::support::{Redis, connect, transports};
use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Name, ReturnPath, RpcMessage,
    conformance::{Able, Breakable, Harness, Transports},
};
use lightbus_test_brokers::RedisServer;
use serde_json::json;
use tokio::sync::Mutex;

const TAKEN_OVER_AFTER: Duration = Duration::from_secs(1);

struct RedisHarness {
    url: Option<String>,
    /// Ends with the harness.
    _own: Option<RedisServer>,
}

impl RedisHarness {
    async fn new() -> Self {
        match env::var("LIGHTBUS_TEST_REDIS_URL") {
            Ok(url) => Self { url: Some(url), _own: None },
            Err(_) => {
                let own = RedisServer::start();
                Self { url: own.as_ref().map(RedisServer::url), _own: own }
            }
        }
    }

    fn url(&self) -> &str {
        self.url.as_deref().unwrap_or_default()
    }

    async fn redis(&self) -> Redis {
        connect(self.url()).await
    }
}

fn at(url: &str) -> Transports {
    let seconds = TAKEN_OVER_AFTER.as_secs_f64();
    let event = json!({"acknowledgement_timeout": seconds, "reclaim_interval": seconds / 4.0});
    transports(&json!({"url": url}), event)
}

#[async_trait]
impl Harness for RedisHarness {
    fn unavailable(&self) -> Option<String> {
        self.url
            .is_none()
            .then(|| "LIGHTBUS_TEST_REDIS_URL is not set, and redis-server is not there".into())
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::default();
        all.durable = true;
        all.ordered = true;
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
        at(self.url())
    }

    fn taken_over_after(&self) -> Duration {
        TAKEN_OVER_AFTER
    }

    async fn nowhere(&self, password: &str) -> Able<Transports> {
        let address = json!({
            "url": format!("redis://user:{password}@127.0.0.1:1/0"),
            "connection_parameters": {"timeout": 1, "password": password},
        });
        Able::Yes(transports(&address, json!({})))
    }

    async fn malformed_call(&self, api: &str) -> Able {
        let _: i64 =
            self.redis().await.run(&["RPUSH", &format!("{api}:rpc_queue"), "{not json"]).await;
        Able::Yes(())
    }

    async fn misdirected_call(&self, as_of: &str, call: &RpcMessage) -> Able {
        let message = json!({
            "metadata": {
                "id": &*call.id,
                "api_name": &*call.api,
                "procedure_name": &*call.procedure,
                "return_path": call.return_path.as_str(),
            },
            "kwargs": {},
        });
        let queue = format!("{as_of}:rpc_queue");
        let _: i64 = self.redis().await.run(&["RPUSH", &queue, &message.to_string()]).await;
        Able::Yes(())
    }

    async fn malformed_result(&self, to: &ReturnPath, call: &Name) -> Able {
        let key = to.as_str().strip_prefix("redis+key://").unwrap();
        let result = format!(
            r#"{{"kwargs": {{"result": NaN}}, "metadata": {{"error": false, "id": "bad", "rpc_message_id": "{call}"}}}}"#
        );
        let _: i64 = self.redis().await.run(&["LPUSH", key, &result]).await;
        Able::Yes(())
    }

    async fn malformed_event(&self, api: &str, event: &str) -> Able {
        let stream = format!("{api}.*:stream");
        let _: String = self
            .redis()
            .await
            .run(&[
                "XADD",
                &stream,
                "*",
                "id",
                "bad",
                "api_name",
                api,
                "event_name",
                event,
                "version",
                "1",
                ":x",
                "{",
            ])
            .await;
        Able::Yes(())
    }

    async fn malformed_schema(&self, api: &str) -> Able {
        let mut redis = self.redis().await;
        let _: () = redis.run(&["SET", &format!("schema:{api}"), "{", "EX", "60"]).await;
        let _: i64 = redis.run(&["SADD", "schemas", api]).await;
        Able::Yes(())
    }

    async fn own_broker(&self) -> Able<Box<dyn Breakable>> {
        match RedisServer::start_durable() {
            Some(server) => {
                let url = server.url();
                Able::Yes(Box::new(OwnBroker { server: Mutex::new(server), url }))
            }
            None => Able::NotApplicable("redis-server cannot be started here"),
        }
    }
}

struct OwnBroker {
    server: Mutex<RedisServer>,
    url: String,
}

#[async_trait]
impl Breakable for OwnBroker {
    async fn connect(&self) -> Transports {
        at(&self.url)
    }

    async fn break_connections(&self) -> Able {
        let mut redis = connect(&self.url).await;
        let _: i64 = redis.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        Able::Yes(())
    }

    async fn stop(&self) {
        self.server.lock().await.kill();
    }

    async fn start(&self) {
        self.server.lock().await.restart();
    }
}

lightbus_core::conformance!(RedisHarness::new().await);
