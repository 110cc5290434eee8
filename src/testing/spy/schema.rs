//! Schemas: those of mocked APIs, in addition to those on the bus.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use lightbus_core::{Result, transport::SchemaTransport};
use serde_json::value::RawValue;

use super::Spy;
use crate::testing::layer::delegate_transport;

#[derive(Debug)]
pub(super) struct Schemas {
    pub(super) inner: Arc<dyn SchemaTransport>,
    pub(super) spy: Spy,
}

delegate_transport!(Schemas);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl SchemaTransport for Schemas {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        self.inner.store(api, schema, ttl).await
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        self.inner.ping(api, ttl).await
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        let mut schemas = self.spy.state.mocks.schemas()?;
        // The schema of a real service takes precedence.
        schemas.extend(self.inner.load().await?);
        Ok(schemas)
    }
}
