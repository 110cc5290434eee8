//! Schemas: a stream that all processes write to and read, in which the last schema of each API counts.

mod store;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use lightbus_core::{
    Result,
    transport::{Finding, Inspect, Location, SchemaTransport},
};
use serde_json::value::RawValue;

use crate::{
    SchemaConfig,
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
            handle: Handle::new(WHAT, Arc::clone(&client)),
            publisher: Publisher::new(client),
            store: tokio::sync::Mutex::new(SchemaStore::new(stream.clone())),
            stream,
        }
    }
}

#[async_trait]
impl SchemaTransport for AmqpSchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        self.handle.client()?;
        store::store(&self.publisher, &self.stream, api, schema, ttl).await
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        let client = self.handle.client()?;
        let mut store = self.store.lock().await;
        store.catch_up(client, &self.publisher).await?;
        let Some(schema) = store.get(api) else { return Ok(false) };
        store::store(&self.publisher, &self.stream, api, &schema, ttl).await?;
        Ok(true)
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        let client = self.handle.client()?;
        let mut store = self.store.lock().await;
        store.catch_up(client, &self.publisher).await?;
        Ok(store.all())
    }
}

lightbus_core::impl_transport!(AmqpSchemaTransport {
    capabilities: |_| crate::capabilities(false),
    inspect: |transport| transport,
    on_close: |transport| {
        transport.publisher.close();
    },
});

#[async_trait]
impl Inspect for AmqpSchemaTransport {
    async fn locate(&self, _api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client()?;
        Ok(vec![locate::queue(client, "all schemas (a stream)", &self.stream).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let client = self.handle.client()?;
        let mut findings = diagnose::diagnose(client, &self.publisher).await?;
        findings.push(diagnose::declared(client, &QueueSpec::schemas(&self.stream)).await?);
        Ok(findings)
    }
}
