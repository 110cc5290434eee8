//! Helpers for the plugins of lightbus itself: contracts, and sending events of internal APIs.

use std::time::{SystemTime, UNIX_EPOCH};

use lightbus_core::{Arguments, EventMessage, Headers, Name, Result, codec};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;

use crate::{
    Bus,
    contract::{Contract, EventContract, Parameter},
};

/// Describes an argument.
pub(super) const fn parameter<T: JsonSchema>(name: &'static str) -> Parameter {
    fn schema<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }
    Parameter { name, description: "", schema: schema::<T>, required: true, default: None }
}

/// Describes an event.
pub(super) const fn event(
    name: &'static str,
    description: &'static str,
    parameters: &'static [Parameter],
) -> EventContract {
    EventContract { name, description, parameters, key: None }
}

/// Adds an argument.
pub(super) fn put<T: Serialize + ?Sized>(
    fields: &mut Arguments,
    name: &str,
    value: &T,
) -> Result<()> {
    fields.push(name, codec::encode(value)?);
    Ok(())
}

/// Seconds since 1970, with a fraction.
pub(super) fn timestamp() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Publishes the schema of an internal API unless one is on the bus. Python processes publish their
/// own documents for these APIs; overwriting each other's would look like a change of the API.
pub(super) async fn publish(bus: &Bus, contract: &'static Contract) {
    let schema = &bus.inner().schema;
    let published = async {
        if schema.on_the_bus(contract.name).await?.is_none() {
            schema.publish(contract).await?;
        }
        Ok::<_, lightbus_core::Error>(())
    };
    if let Err(error) = published.await {
        tracing::warn!(api = contract.name, %error, "could not publish the schema of a plugin's events");
    }
}

/// Creates an event of an internal API.
pub(super) fn message(
    bus: &Bus,
    api: &Name,
    event: &'static str,
    fields: Arguments,
) -> EventMessage {
    let id = bus.inner().ids.next();
    EventMessage {
        headers: Headers::new(),
        ..EventMessage::new(id, Name::clone(api), event, 1, fields)
    }
}

/// Sends events of an internal API without calling plugins.
pub(super) async fn send(bus: &Bus, api: &str, events: &[EventMessage]) -> Result<()> {
    let entry = bus.inner().apis.entry(api);
    let sending = async {
        entry.open().await?;
        entry.event.send(events).await
    };
    let limit = entry.config.event_fire_timeout;
    match tokio::time::timeout(limit, sending).await {
        Ok(sent) => sent.map(drop),
        Err(_) => Err(lightbus_core::Error::timeout("the broker did not confirm in time", limit)),
    }
}
