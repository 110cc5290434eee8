//! Publishing the schema of another service.

use lightbus_core::Result;

use super::Admin;
use crate::{bus::shared::at, schema::Schema};

impl Admin {
    /// Stores a schema on the bus that this process neither serves nor renews. It expires after
    /// `bus.schema.ttl`, unless a process that serves the API renews it.
    ///
    /// # Errors
    ///
    /// [`Config`](lightbus_core::ErrorKind::Config) if the API's name is invalid;
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if the broker does not answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the schema may or may not have been stored.
    pub async fn publish_schema(&self, schema: &Schema) -> Result<()> {
        self.bus.inner.ensure_open()?;
        lightbus_core::name::check_api(schema.api())?;
        self.bus.inner.schema.store(schema).await.map_err(|error| {
            let error = at(&**self.bus.inner.schema.transport(), error);
            error.during(format!("publishing the schema of {}", schema.api()))
        })
    }
}
