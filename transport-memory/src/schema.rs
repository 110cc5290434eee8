//! Schemas: a map whose entries end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lightbus_core::{Result, time::deadline_after, transport::SchemaTransport};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    CAPABILITIES,
    client::{Broker, Handle, lock},
};

/// Shares schemas within this process.
pub struct MemorySchemaTransport {
    handle: Handle,
}

#[derive(Default)]
pub(crate) struct Schemas(Mutex<BTreeMap<String, Stored>>);

struct Stored {
    schema: Box<RawValue>,
    until: Instant,
}

impl Schemas {
    /// Gives access to the schemas, without those that have expired.
    fn living<T>(&self, look: impl FnOnce(&mut BTreeMap<String, Stored>) -> T) -> T {
        let now = Instant::now();
        let mut schemas = lock(&self.0);
        schemas.retain(|_, stored| stored.until > now);
        look(&mut schemas)
    }
}

impl MemorySchemaTransport {
    pub(crate) fn new(broker: &Arc<Broker>) -> Self {
        Self { handle: Handle::new("the schema transport", Arc::clone(broker)) }
    }
}

lightbus_core::impl_transport!(MemorySchemaTransport { capabilities: |_| CAPABILITIES });

#[async_trait]
impl SchemaTransport for MemorySchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        let stored = Stored { schema: schema.to_owned(), until: deadline_after(ttl) };
        self.handle.client()?.schemas.living(|schemas| schemas.insert(api.to_owned(), stored));
        Ok(())
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        Ok(self.handle.client()?.schemas.living(|schemas| match schemas.get_mut(api) {
            Some(stored) => {
                stored.until = deadline_after(ttl);
                true
            }
            None => false,
        }))
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        Ok(self.handle.client()?.schemas.living(|schemas| {
            schemas.iter().map(|(api, stored)| (api.clone(), stored.schema.clone())).collect()
        }))
    }
}
