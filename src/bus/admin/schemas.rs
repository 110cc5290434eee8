//! Publishing the schema of another service.

use lightbus_core::Result;

use super::Admin;
use crate::{bus::shared::at, schema::Schema};

impl Admin {
    /// Puts a document on the bus that this process neither serves nor renews: it is gone after
    /// `bus.schema.ttl`, unless a process of the API renews it. For tools.
    ///
    /// # Errors
    ///
    /// [`Config`](lightbus_core::ErrorKind::Config) if the API's name cannot be used;
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if it cannot be stored.
    pub async fn publish_schema(&self, schema: &Schema) -> Result<()> {
        self.bus.inner.ensure_open()?;
        lightbus_core::name::check_api(schema.api())?;
        self.bus.inner.schema.store(schema).await.map_err(|error| {
            let error = at(&**self.bus.inner.schema.transport(), error);
            error.during(format!("publishing the schema of {}", schema.api()))
        })
    }
}
