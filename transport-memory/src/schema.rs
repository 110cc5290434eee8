//! Schemas: a map whose entries end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lightbus_core::{Result, transport::SchemaTransport};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    MemoryConfig,
    client::{Client, Open, expiry, lock},
};

/// Shares schemas within this process.
pub struct MemorySchemaTransport {
    client: Client,
    config: MemoryConfig,
    open: Arc<Open>,
}

#[derive(Default)]
pub(crate) struct Schemas(Mutex<BTreeMap<String, Stored>>);

struct Stored {
    schema: Box<RawValue>,
    until: Instant,
}

impl Schemas {
    /// The schemas that live. Those that do not are gone from the moment that somebody looks.
    fn living<T>(&self, look: impl FnOnce(&mut BTreeMap<String, Stored>) -> T) -> T {
        let now = Instant::now();
        let mut schemas = lock(&self.0);
        schemas.retain(|_, stored| stored.until > now);
        look(&mut schemas)
    }
}

impl MemorySchemaTransport {
    pub(crate) fn new(client: &Client, config: MemoryConfig) -> Self {
        Self { client: client.clone(), config, open: Open::new("the schema transport") }
    }

    fn shut(&self) {
        self.open.close();
    }
}

crate::transport!(MemorySchemaTransport, "schema transport");

#[async_trait]
impl SchemaTransport for MemorySchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        self.open.check("storing a schema")?;
        let stored = Stored { schema: schema.to_owned(), until: expiry(ttl) };
        self.client.schemas.living(|schemas| schemas.insert(api.to_owned(), stored));
        Ok(())
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        self.open.check("renewing a schema")?;
        Ok(self.client.schemas.living(|schemas| match schemas.get_mut(api) {
            Some(stored) => {
                stored.until = expiry(ttl);
                true
            }
            None => false,
        }))
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        self.open.check("loading schemas")?;
        Ok(self.client.schemas.living(|schemas| {
            schemas.iter().map(|(api, stored)| (api.clone(), stored.schema.clone())).collect()
        }))
    }
}
