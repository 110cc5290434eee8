//! The APIs that a process speaks for, and the schemas that are on the bus.

use lightbus_core::{Error, ErrorKind, EventMessage, Name, Result};
use serde_json::{Map, Value};

use super::shared::Bus;
use crate::{
    contract::Contract,
    schema::{Change, Schema},
    sensitive::REDACTED,
};

impl Bus {
    /// Makes this process an authority of an API that it does not serve: it may fire its events,
    /// and publishes its schema.
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
    /// [`Config`](ErrorKind::Config) if the API's name cannot be used, or another contract has it in
    /// this process, or it breaks users of the API and `bus.schema.on_incompatible` is `refuse`, or it
    /// `requires` what the configured transport cannot do, and the API's `on_missing` is not `warn`;
    /// [`Unavailable`](ErrorKind::Unavailable) if the schema cannot be published.
    pub async fn register(&self, contract: &'static Contract) -> Result<()> {
        self.inner.ensure_open()?;
        lightbus_core::name::check_api(contract.name)?;
        self.inner.check_guarantees(contract)?;
        {
            let mut state = self.inner.state();
            match state.registered.get(contract.name) {
                Some(other) if !std::ptr::eq(*other, contract) => {
                    return Err(Error::new(
                        ErrorKind::Config,
                        format!("another contract is registered as `{}`", contract.name),
                    ));
                }
                Some(_) => return Ok(()),
                None => state.registered.insert(contract.name.into(), contract),
            };
        }
        self.inner.schema.publish(contract).await.map_err(|error| {
            self.inner.state().registered.remove(contract.name);
            error.during(format!("publishing the schema of {}", contract.name))
        })
    }

    /// The APIs whose schemas are on the bus, as far as this process has read it. Sorted.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the bus cannot be read.
    pub async fn remote_apis(&self) -> Result<Vec<Name>> {
        self.inner.schema.load().await?;
        Ok(self.inner.schema.apis())
    }

    /// The document that describes an API on the bus, or `None` if nobody has published one.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the bus cannot be read.
    pub async fn schema(&self, api: &str) -> Result<Option<Value>> {
        self.inner.schema.load().await?;
        let schema = self.inner.schema.get(api);
        schema
            .map(|schema| lightbus_core::codec::decode(schema.text().get().as_bytes()))
            .transpose()
    }

    /// What would change for the users of an API if this contract took the place of the one on the
    /// bus; nothing if none is there. Serving and registering do the same by themselves, and act
    /// as `bus.schema.on_incompatible` says.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](ErrorKind::Unavailable) if the bus cannot be read.
    pub async fn compare_schema(&self, contract: &Contract) -> Result<Vec<Change>> {
        let old = self.inner.schema.on_the_bus(contract.name).await?;
        Ok(old.map_or_else(Vec::new, |old| Schema::compare(&old, &Schema::of(contract))))
    }

    /// The arguments of an event as they may be shown: as JSON, with [`REDACTED`] in the place of what
    /// the schema of its API says is sensitive. What is not JSON is shown as text, unless the API has
    /// anything sensitive.
    ///
    /// It goes by the schemas that this process knows; of an API without one, all is shown.
    #[must_use]
    pub fn shown(&self, event: &EventMessage) -> Map<String, Value> {
        let schema = self.inner().schema.get(&event.api);
        match schema.and_then(|schema| schema.shown_event(&event.event, &event.fields)) {
            Some(Value::Object(shown)) => shown,
            // Hidden as a whole.
            Some(_) => {
                event.fields.iter().map(|(name, _)| (name.to_string(), REDACTED.into())).collect()
            }
            None => {
                event.fields.iter().map(|(name, value)| (name.to_string(), read(value))).collect()
            }
        }
    }
}

/// JSON as a value; what is not JSON as text.
fn read(value: &[u8]) -> Value {
    serde_json::from_slice(value).unwrap_or_else(|_| String::from_utf8_lossy(value).into())
}
