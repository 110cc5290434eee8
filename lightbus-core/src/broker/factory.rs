//! From the configuration to the four transports.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use serde_json::Value;

use super::{
    Broker, BrokerEventTransport, BrokerResultTransport, BrokerRpcTransport, BrokerSchemaTransport,
    shared::Shared,
};
use crate::{
    ConfigSection, Error, ErrorKind, Result, TransportFactory, TransportKind, User, config_types,
    transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport},
};

/// Makes the four transports of a [`Broker`]. Those with equal options share one.
///
/// ```text
/// let registry = lightbus::registry().with(Factory::<Nats>::default());
/// ```
pub struct Factory<B: Broker> {
    brokers: Mutex<Vec<(Value, Weak<Shared<B>>)>>,
}

impl<B: Broker> Default for Factory<B> {
    fn default() -> Self {
        Self { brokers: Mutex::default() }
    }
}

impl<B: Broker> fmt::Debug for Factory<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Factory").field(&B::NAME).finish()
    }
}

impl<B: Broker> Factory<B> {
    /// One more user of the broker of these options.
    fn user(&self, section: &ConfigSection) -> Result<User<Shared<B>>> {
        let mut brokers = self.brokers.lock().unwrap_or_else(PoisonError::into_inner);
        brokers.retain(|(_, shared)| shared.strong_count() > 0);
        let equal = brokers.iter().find(|(options, _)| options == section.value());
        // One whose last user is gone is closed for ever.
        let known = equal.and_then(|(_, shared)| shared.upgrade()).and_then(User::join);
        if let Some(user) = known {
            return Ok(user);
        }
        let broker = B::new(section.parse()?).map_err(|error| located(error, section))?;
        let shared = Shared::new(broker);
        brokers.retain(|(options, _)| options != section.value());
        brokers.push((section.value().clone(), Arc::downgrade(&shared)));
        Ok(User::new(shared))
    }
}

/// A mistake in the configuration says where it is.
fn located(error: Error, section: &ConfigSection) -> Error {
    let told = error.kind() != ErrorKind::Config || error.context().any(|(key, _)| key == "at");
    if told { error } else { error.with("at", section.path()) }
}

impl<B: Broker> TransportFactory for Factory<B> {
    fn name(&self) -> &'static str {
        B::NAME
    }

    fn options(&self, _kind: TransportKind) -> Option<Value> {
        Some(config_types::describe::<B::Config>())
    }

    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        Ok(Arc::new(BrokerRpcTransport::new(self.user(section)?)))
    }

    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        Ok(Arc::new(BrokerResultTransport::new(self.user(section)?)))
    }

    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        Ok(Arc::new(BrokerEventTransport::new(self.user(section)?)))
    }

    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        Ok(Arc::new(BrokerSchemaTransport::new(self.user(section)?)))
    }
}
