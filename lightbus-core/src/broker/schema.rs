//! Schemas: values with a time to live, by API.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::value::RawValue;

use super::{
    Broker, Store, from_safe_name, safe_name,
    shared::{Handle, Shared},
};
use crate::{Result, User, codec, transport::SchemaTransport};

/// Shares schemas over a [`Broker`].
pub struct BrokerSchemaTransport<B: Broker> {
    handle: Handle<B>,
}

super::transport!(BrokerSchemaTransport);

impl<B: Broker> BrokerSchemaTransport<B> {
    pub(super) fn new(user: User<Shared<B>>) -> Self {
        Self { handle: Handle::new(user, "the schema transport") }
    }

    async fn shut(&self) {
        self.handle.close(async {}).await;
    }
}

#[async_trait]
impl<B: Broker> SchemaTransport for BrokerSchemaTransport<B> {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        let value = Bytes::copy_from_slice(schema.get().as_bytes());
        self.handle
            .during(format!("storing the schema of {api}"), async |shared| {
                shared.put(&Store::Schemas, &safe_name(api), value, Some(ttl)).await
            })
            .await
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        self.handle
            .during(format!("renewing the schema of {api}"), async |shared| {
                shared.limit(shared.broker.renew(&Store::Schemas, &safe_name(api), ttl)).await
            })
            .await
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        let found = self.handle.during("loading schemas", async |shared| {
            let keys = shared.keys(&Store::Schemas).await?;
            shared.values(&Store::Schemas, keys).await
        });
        let mut schemas = BTreeMap::new();
        for (key, value) in found.await? {
            let Some(api) = from_safe_name(&key) else { continue };
            match codec::decode::<Box<RawValue>>(&value) {
                Ok(schema) => {
                    schemas.insert(api, schema);
                }
                Err(error) => {
                    tracing::warn!(%error, api, "a schema that cannot be read was left out")
                }
            }
        }
        Ok(schemas)
    }
}
