//! Schemas: a map with times to live.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use lightbus_core::{Result, transport::SchemaTransport};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    broker::{Broker, Life, lock},
    transport,
};

/// Shares schemas within the process.
#[derive(Debug)]
pub struct MemorySchemaTransport {
    broker: Arc<Broker>,
    pub(crate) life: Life,
}

transport!(MemorySchemaTransport);

impl MemorySchemaTransport {
    pub(crate) fn new(broker: Arc<Broker>) -> Self {
        Self { broker, life: Life::new() }
    }
}

#[async_trait]
impl SchemaTransport for MemorySchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        self.life.ensure_open()?;
        lock(&self.broker.schemas)
            .insert(api.to_owned(), (schema.to_owned(), Instant::now() + ttl));
        Ok(())
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        self.life.ensure_open()?;
        let now = Instant::now();
        let mut schemas = lock(&self.broker.schemas);
        let live = schemas.get_mut(api).filter(|(_, until)| *until > now);
        Ok(live.map(|(_, until)| *until = now + ttl).is_some())
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        self.life.ensure_open()?;
        let now = Instant::now();
        let mut schemas = lock(&self.broker.schemas);
        schemas.retain(|_, (_, until)| *until > now);
        Ok(schemas.iter().map(|(api, (schema, _))| (api.clone(), schema.clone())).collect())
    }
}
