//! Schemas: a key for each API, which expires, and a set of their names.

mod store;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use lightbus_core::{
    Result,
    transport::{Finding, Inspect, Location, SchemaTransport},
};
use serde_json::value::RawValue;

use crate::{
    client::{Client, Handle},
    diagnose, locate,
};

const WHAT: &str = "the schema transport";
/// Shares schemas in Redis.
pub struct RedisSchemaTransport {
    handle: Handle,
}

impl RedisSchemaTransport {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { handle: Handle::new(WHAT, client) }
    }
}

#[async_trait]
impl SchemaTransport for RedisSchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        store::store(self.handle.client()?, api, schema, ttl).await
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        store::renew(self.handle.client()?, api, ttl).await
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        store::load(self.handle.client()?).await
    }
}

lightbus_core::impl_transport!(RedisSchemaTransport {
    capabilities: |_| crate::CAPABILITIES,
    inspect: |transport| transport,
});

#[async_trait]
impl Inspect for RedisSchemaTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client()?;
        Ok(vec![locate::document(client, &store::key(api)).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client()?).await
    }
}
