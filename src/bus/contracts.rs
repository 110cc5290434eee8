//! The APIs of which a process is an authority, and the schemas on the bus.

use lightbus_core::{Error, ErrorKind, EventMessage, Name, Result};
use serde_json::{Map, Value};

use super::shared::Bus;
use crate::{
    contract::Contract,
    schema::{Change, Schema},
    sensitive::REDACTED,
};

impl Bus {
    /// Makes this process an authority of an API that it does not serve: it may fire the API's events,
    /// and publishes the API's schema.
    ///
    /// ```no_run
    /// # use lightbus::prelude::*;
    /// # #[lightbus::api(name = "auth")] pub trait Auth {}
    /// # async fn example(bus: Bus) -> lightbus::Result<()> {
    /// bus.register(AuthClient::contract()).await
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the API's name is invalid; if this process has another contract
    /// of that name; if the new version breaks users of the API and `bus.schema.on_incompatible` is
    /// `refuse`; or if the API `requires` what the configured transport cannot do and its `on_missing`
    /// is not `warn`. [`Unavailable`](ErrorKind::Unavailable) if the schema cannot be published.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the schema may be published although the API is not registered; register
    /// it again.
    pub async fn register(&self, contract: &'static Contract) -> Result<()> {
        self.inner.ensure_open()?;
        lightbus_core::name::check_api(contract.name)?;
        self.inner.check_guarantees(contract)?;
        let _registering = self.inner.registering.lock().await;
        let known = self.inner.state().registered.get(contract.name).copied();
        match known {
            Some(other) if !std::ptr::eq(other, contract) => {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("another contract is registered as `{}`", contract.name),
                ));
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let published = self.inner.schema.publish(contract).await;
        published
            .map_err(|error| error.during(format!("publishing the schema of {}", contract.name)))?;
        self.inner.state().registered.insert(contract.name.into(), contract);
        Ok(())
    }

    /// Reads the schemas on the bus and returns the names of their APIs, sorted.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer.
    pub async fn remote_apis(&self) -> Result<Vec<Name>> {
        self.inner.schema.load().await?;
        Ok(self.inner.schema.apis())
    }

    /// Reads the schemas on the bus and returns the document that describes an API, or `None` if there
    /// is none.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer.
    pub async fn schema(&self, api: &str) -> Result<Option<Value>> {
        self.inner.schema.load().await?;
        let schema = self.inner.schema.get(api);
        schema
            .map(|schema| lightbus_core::codec::decode(schema.text().get().as_bytes()))
            .transpose()
    }

    /// Compares a contract with the API's schema on the bus, and returns what would change for users of
    /// the API. Empty if no schema is there. Serving and registering make the same comparison and act on
    /// it as `bus.schema.on_incompatible` says.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer.
    pub async fn compare_schema(&self, contract: &Contract) -> Result<Vec<Change>> {
        let old = self.inner.schema.on_the_bus(contract.name).await?;
        Ok(old.map_or_else(Vec::new, |old| Schema::compare(&old, &Schema::of(contract))))
    }

    /// Returns the arguments of an event as JSON that may be logged: values that the API's schema marks
    /// as sensitive are replaced by [`REDACTED`]. Values that are not JSON become text, or [`REDACTED`]
    /// if the event has sensitive fields.
    ///
    /// Uses the schemas that this process knows. Without a schema for the API, nothing is redacted.
    #[must_use]
    pub fn shown(&self, event: &EventMessage) -> Map<String, Value> {
        let schema = self.inner().schema.get(&event.api);
        match schema.and_then(|schema| schema.shown_event(&event.event, &event.fields)) {
            Some(Value::Object(shown)) => shown,
            // Redacted as a whole.
            Some(_) => {
                event.fields.iter().map(|(name, _)| (name.to_string(), REDACTED.into())).collect()
            }
            None => {
                event.fields.iter().map(|(name, value)| (name.to_string(), read(value))).collect()
            }
        }
    }
}

/// Decodes JSON. What is not JSON becomes text.
fn read(value: &[u8]) -> Value {
    serde_json::from_slice(value).unwrap_or_else(|_| String::from_utf8_lossy(value).into())
}
