//! Schemas: the descriptions of the live APIs, shared on the bus.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use serde_json::value::RawValue;

use super::Transport;
use crate::Result;

/// Shares API schemas between all processes of a bus.
#[async_trait]
pub trait SchemaTransport: Transport {
    /// Stores the schema of an API for `ttl`. Storing it again renews it; the last writer wins.
    ///
    /// # Delivery
    ///
    /// When it returns, every process that [loads](Self::load) sees it (case
    /// `a_stored_schema_is_loaded`), also after its writer is gone, until `ttl` ends (case
    /// `a_schema_expires`).
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable), safe to retry.
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()>;

    /// Lets a stored schema live for another `ttl`, without sending it again. Gives `false` if it
    /// is not there: then store it (case `a_ping_keeps_a_schema_alive`).
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable), safe to retry.
    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool>;

    /// All schemas that live, by API. One that is not JSON is logged and left out (case
    /// `a_malformed_schema_is_left_out`).
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable), safe to retry.
    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>>;
}
