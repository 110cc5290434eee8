//! Creates transports from the configuration.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use lightbus_core::{
    ConfigSection, Result, TransportFactory, TransportKind, config_types,
    transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport},
};

use crate::{
    AmqpEventTransport, AmqpResultTransport, AmqpRpcTransport, AmqpSchemaTransport, EventConfig,
    NAME, ResultConfig, RpcConfig, SchemaConfig, client::Client, config::ConnectionConfig,
    endpoint::Endpoint,
};

/// Creates RabbitMQ transports. Transports with equal connection options share connections.
#[derive(Debug, Default)]
pub struct AmqpFactory {
    clients: Mutex<HashMap<ConnectionConfig, Weak<Client>>>,
}

impl AmqpFactory {
    fn client(&self, section: &ConfigSection, config: ConnectionConfig) -> Result<Arc<Client>> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&config).and_then(Weak::upgrade) {
            return Ok(client);
        }
        let client = Arc::new(Client::new(Endpoint::new(section.path(), &config)?));
        clients.retain(|_, client| client.strong_count() > 0);
        clients.insert(config, Arc::downgrade(&client));
        Ok(client)
    }
}

impl TransportFactory for AmqpFactory {
    fn name(&self) -> &'static str {
        NAME
    }

    fn options(&self, kind: TransportKind) -> Option<serde_json::Value> {
        Some(match kind {
            TransportKind::Rpc => config_types::describe::<RpcConfig>(),
            TransportKind::Result => config_types::describe::<ResultConfig>(),
            TransportKind::Event => config_types::describe::<EventConfig>(),
            TransportKind::Schema => config_types::describe::<SchemaConfig>(),
        })
    }

    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        let config: RpcConfig = section.parse()?;
        let client = self.client(section, config.connection())?;
        Ok(Arc::new(AmqpRpcTransport::new(client, config)))
    }

    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        let config: ResultConfig = section.parse()?;
        let client = self.client(section, config.connection())?;
        Ok(Arc::new(AmqpResultTransport::new(client, &config)))
    }

    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        let config: EventConfig = section.parse()?;
        let client = self.client(section, config.connection())?;
        Ok(Arc::new(AmqpEventTransport::new(client, config)))
    }

    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        let config: SchemaConfig = section.parse()?;
        let client = self.client(section, config.connection())?;
        Ok(Arc::new(AmqpSchemaTransport::new(client, config)))
    }
}
