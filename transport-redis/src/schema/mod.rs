//! Schemas: a key for each API, which expires, and a set of their names.

mod store;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Result, Transport,
    transport::{Finding, Inspect, Location, SchemaTransport},
};
use serde_json::value::RawValue;

use crate::{
    NAME,
    client::{Client, Handle},
    diagnose, locate,
};

const WHAT: &str = "the schema transport";
/// Shares schemas in Redis.
#[derive(Debug)]
pub struct RedisSchemaTransport {
    handle: Handle,
}

impl RedisSchemaTransport {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { handle: Handle::new(client) }
    }
}

#[async_trait]
impl SchemaTransport for RedisSchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        let stored = async { store::store(self.handle.client(WHAT)?, api, schema, ttl).await };
        stored.await.map_err(|error| error.during(format!("storing the schema of {api}")))
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        let renewed = async { store::renew(self.handle.client(WHAT)?, api, ttl).await };
        renewed.await.map_err(|error| error.during(format!("renewing the schema of {api}")))
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        let loaded = async { store::load(self.handle.client(WHAT)?).await };
        loaded.await.map_err(|error| error.during("loading the schemas"))
    }
}

#[async_trait]
impl Transport for RedisSchemaTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn broker(&self) -> String {
        self.handle.broker()
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities()
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    async fn open(&self) -> Result<()> {
        self.handle.open(WHAT).await
    }

    async fn close(&self) -> Result<()> {
        self.handle.close();
        Ok(())
    }
}

#[async_trait]
impl Inspect for RedisSchemaTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client(WHAT)?;
        Ok(vec![locate::document(client, &store::key(api)).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client(WHAT)?).await
    }
}
