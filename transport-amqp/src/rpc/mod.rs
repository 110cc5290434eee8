//! Calls: a queue for each API, whose messages expire.

mod codec;
mod send;
mod source;

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, Result, RpcMessage, Subscription,
    transport::{Finding, Inspect, Location, RpcTransport, ServeSpec},
};

use crate::{
    RpcConfig,
    client::{Client, Handle},
    diagnose, locate,
    publisher::Publisher,
    topology,
};
use source::CallSource;

const WHAT: &str = "the RPC transport";

/// Carries calls over RabbitMQ queues.
pub struct AmqpRpcTransport {
    handle: Handle,
    config: Arc<RpcConfig>,
    publisher: Arc<Publisher>,
}

impl AmqpRpcTransport {
    pub(crate) fn new(client: Arc<Client>, config: RpcConfig) -> Self {
        Self {
            handle: Handle::new(WHAT, Arc::clone(&client)),
            publisher: Arc::new(Publisher::new(client)),
            config: Arc::new(config),
        }
    }
}

#[async_trait]
impl RpcTransport for AmqpRpcTransport {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        self.handle.client()?;
        send::call(&self.publisher, self.handle.closing(), &self.config, &call).await
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let client = self.handle.client()?;
        if spec.apis.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no API to serve"));
        }
        let source = CallSource::new(
            client,
            self.handle.closing(),
            &self.publisher,
            &self.config,
            spec.apis,
            spec.flow.max_in_flight,
        );
        source.start().await?;
        Ok(Subscription::spawn(source, spec.flow))
    }

    async fn backlog(&self, api: &str) -> Result<u64> {
        let link = self.handle.client()?.consumes().await?;
        let waiting = topology::waiting(&link, &topology::calls_of(&self.config, api)).await?;
        Ok(waiting.unwrap_or(0).into())
    }
}

lightbus_core::impl_transport!(AmqpRpcTransport {
    capabilities: |_| crate::capabilities(false),
    inspect: |transport| transport,
    on_close: |transport| {
        transport.publisher.close();
    },
});

#[async_trait]
impl Inspect for AmqpRpcTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let queue = topology::calls_of(&self.config, api);
        let client = self.handle.client()?;
        Ok(vec![locate::queue(client, "calls that wait for a worker (a queue)", &queue).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client()?, &self.publisher).await
    }
}
