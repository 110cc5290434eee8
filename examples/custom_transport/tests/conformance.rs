//! The transport passes the suite, each case with a loft of its own.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Name, ReturnPath, RpcMessage,
    broker::{Channel, ChannelKind, safe_name, wire},
    conformance::{Able, Breakable, Harness, Transports},
};
use lightbus_transport_pigeon::{
    PigeonFactory,
    loft::{Loft, Server},
};
use serde_json::json;
use tokio::sync::Mutex;

lightbus_core::conformance!(Pigeons(Arc::new(Own::new().await)));

/// Not less than a second: on a busy machine leases are renewed late. Not much more: cases wait for it.
const TAKEN_OVER_AFTER: Duration = Duration::from_secs(2);
const PASSWORD: &str = "coo";

struct Pigeons(Arc<Own>);

/// A loft that can be stopped and started.
struct Own {
    loft: Loft,
    address: String,
    server: Mutex<Option<Server>>,
}

impl Own {
    async fn new() -> Self {
        let loft = Loft::new(Some(PASSWORD.into()));
        let server = loft.serve("127.0.0.1:0").await.expect("a free port");
        let address = server.address().to_string();
        Self { loft, address, server: Mutex::new(Some(server)) }
    }

    fn transports(&self) -> Transports {
        transports(&self.address, PASSWORD)
    }
}

/// Of a factory of their own: they share nothing with others.
fn transports(loft: &str, password: &str) -> Transports {
    Transports::new(&PigeonFactory::default(), |_| {
        json!({
            "loft": loft,
            "password": password,
            "acknowledgement_timeout": TAKEN_OVER_AFTER.as_secs_f64(),
        })
    })
}

#[async_trait]
impl Harness for Pigeons {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.durable = true;
        capabilities.ordered = true;
        capabilities.replay = true;
        capabilities.history = true;
        capabilities.lag = true;
        capabilities.dead_letters = true;
        capabilities.shared = true;
        capabilities
    }

    async fn connect(&self) -> Transports {
        self.0.transports()
    }

    fn taken_over_after(&self) -> Duration {
        TAKEN_OVER_AFTER
    }

    async fn nowhere(&self, password: &str) -> Able<Transports> {
        // No program listens at port 1.
        Able::Yes(transports("127.0.0.1:1", password))
    }

    async fn malformed_call(&self, api: &str) -> Able {
        self.publish(ChannelKind::Calls, api).await
    }

    async fn misdirected_call(&self, as_of: &str, call: &RpcMessage) -> Able {
        let channel = Channel { kind: ChannelKind::Calls, name: safe_name(as_of) };
        let form = wire::encode_call(call, Duration::from_secs(60)).expect("the form of a call");
        let form = String::from_utf8(form).expect("text");
        self.0.loft.publish(&channel.to_string(), &form);
        Able::Yes(())
    }

    async fn malformed_result(&self, to: &ReturnPath, call: &Name) -> Able {
        let inbox = to.as_str().rsplit(':').next().expect("an inbox");
        let channel = Channel { kind: ChannelKind::Results, name: safe_name(inbox) };
        let result = format!(r#"{{"v":1,"id":"bad","rpc_id":"{call}","value":NaN}}"#);
        self.0.loft.publish(&channel.to_string(), &result);
        Able::Yes(())
    }

    async fn malformed_event(&self, api: &str, _event: &str) -> Able {
        self.publish(ChannelKind::Events, api).await
    }

    async fn malformed_schema(&self, api: &str) -> Able {
        self.0.loft.put("schemas", &safe_name(api), "{no JSON");
        Able::Yes(())
    }

    async fn own_broker(&self) -> Able<Box<dyn Breakable>> {
        // Each case has one of its own already.
        Able::Yes(Box::new(Breaking(Arc::clone(&self.0))))
    }
}

impl Pigeons {
    async fn publish(&self, kind: ChannelKind, api: &str) -> Able {
        let channel = Channel { kind, name: safe_name(api) };
        self.0.loft.publish(&channel.to_string(), "{no JSON");
        Able::Yes(())
    }
}

struct Breaking(Arc<Own>);

#[async_trait]
impl Breakable for Breaking {
    async fn connect(&self) -> Transports {
        self.0.transports()
    }

    async fn break_connections(&self) -> Able {
        self.0.server.lock().await.as_ref().expect("a server").disconnect();
        Able::Yes(())
    }

    async fn stop(&self) {
        let server = self.0.server.lock().await.take();
        server.expect("a server").stop().await;
    }

    async fn start(&self) {
        let server = self.0.loft.serve(&self.0.address).await.expect("its address is free");
        *self.0.server.lock().await = Some(server);
    }
}
