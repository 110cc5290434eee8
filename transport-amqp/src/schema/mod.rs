//! Schemas: a stream that all processes write to and read, in which the last schema of each API counts.

mod store;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Result, Transport,
    transport::{Finding, Inspect, Location, SchemaTransport},
};
use serde_json::value::RawValue;

use crate::{
    NAME, SchemaConfig,
    client::{Client, Handle},
    diagnose, locate,
    publisher::Publisher,
    topology::QueueSpec,
};
use store::SchemaStore;

const WHAT: &str = "the schema transport";

/// Shares schemas in a RabbitMQ stream.
pub struct AmqpSchemaTransport {
    handle: Handle,
    publisher: Publisher,
    stream: String,
    /// What has been read. Locked while it is read further.
    store: tokio::sync::Mutex<SchemaStore>,
}

impl AmqpSchemaTransport {
    pub(crate) fn new(client: Arc<Client>, config: SchemaConfig) -> Self {
        let stream = format!("{}{}", config.prefix, config.stream);
        Self {
            handle: Handle::new(Arc::clone(&client)),
            publisher: Publisher::new(client),
            store: tokio::sync::Mutex::new(SchemaStore::new(stream.clone())),
            stream,
        }
    }
}

#[async_trait]
impl SchemaTransport for AmqpSchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        let store = async {
            self.handle.client(WHAT)?;
            store::store(&self.publisher, &self.stream, api, schema, ttl).await
        };
        store.await.map_err(|error| error.during(format!("storing the schema of {api}")))
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        let ping = async {
            let client = self.handle.client(WHAT)?;
            let mut store = self.store.lock().await;
            store.catch_up(client, &self.publisher).await?;
            let Some(schema) = store.get(api) else { return Ok(false) };
            store::store(&self.publisher, &self.stream, api, &schema, ttl).await?;
            Ok(true)
        };
        ping.await.map_err(|error: lightbus_core::Error| {
            error.during(format!("renewing the schema of {api}"))
        })
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        let load = async {
            let client = self.handle.client(WHAT)?;
            let mut store = self.store.lock().await;
            store.catch_up(client, &self.publisher).await?;
            Ok(store.all())
        };
        load.await.map_err(|error: lightbus_core::Error| error.during("loading the schemas"))
    }
}

#[async_trait]
impl Transport for AmqpSchemaTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn broker(&self) -> String {
        self.handle.broker()
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities(false)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    async fn open(&self) -> Result<()> {
        self.handle.open(WHAT).await
    }

    async fn close(&self) -> Result<()> {
        self.handle.close();
        self.publisher.close();
        Ok(())
    }
}

#[async_trait]
impl Inspect for AmqpSchemaTransport {
    async fn locate(&self, _api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client(WHAT)?;
        Ok(vec![locate::queue(client, "all schemas (a stream)", &self.stream).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let client = self.handle.client(WHAT)?;
        let mut findings = diagnose::diagnose(client, &self.publisher).await?;
        findings.push(diagnose::declared(client, &QueueSpec::schemas(&self.stream)).await?);
        Ok(findings)
    }
}

impl fmt::Debug for AmqpSchemaTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpSchemaTransport")
            .field("broker", &self.handle.broker())
            .finish_non_exhaustive()
    }
}
