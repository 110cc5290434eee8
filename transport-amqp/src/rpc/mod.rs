//! Calls: a queue for each API, whose messages expire.

mod codec;
mod send;
mod source;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Error, ErrorKind, Result, RpcMessage, Subscription, Transport,
    transport::{Finding, Inspect, Location, RpcTransport, ServeSpec},
};

use crate::{
    NAME, RpcConfig,
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
            handle: Handle::new(Arc::clone(&client)),
            publisher: Arc::new(Publisher::new(client)),
            config: Arc::new(config),
        }
    }
}

#[async_trait]
impl RpcTransport for AmqpRpcTransport {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        let during = |error: Error| {
            error.during(format!("sending a call of {}.{}", call.api, call.procedure))
        };
        self.handle.client(WHAT).map_err(during)?;
        send::call(&self.publisher, self.handle.closing(), &self.config, &call)
            .await
            .map_err(during)
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let during = |error: Error| error.during("serving calls");
        let client = self.handle.client(WHAT).map_err(during)?;
        if spec.apis.is_empty() {
            return Err(during(Error::new(ErrorKind::Config, "there is no API to serve")));
        }
        let source = CallSource::new(
            client,
            self.handle.closing(),
            &self.publisher,
            &self.config,
            spec.apis,
            spec.flow.max_in_flight,
        );
        source.start().await.map_err(during)?;
        Ok(Subscription::spawn(source, spec.flow))
    }
}

#[async_trait]
impl Transport for AmqpRpcTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn broker(&self) -> String {
        self.handle.broker()
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities(false)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    async fn open(&self) -> Result<()> {
        self.handle.open(WHAT).await
    }

    async fn close(&self) -> Result<()> {
        self.handle.close();
        self.publisher.close();
        Ok(())
    }
}

#[async_trait]
impl Inspect for AmqpRpcTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let queue = topology::calls_of(&self.config, api);
        let client = self.handle.client(WHAT)?;
        Ok(vec![locate::queue(client, "calls that wait for a worker (a queue)", &queue).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client(WHAT)?, &self.publisher).await
    }
}

impl fmt::Debug for AmqpRpcTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpRpcTransport")
            .field("broker", &self.handle.broker())
            .finish_non_exhaustive()
    }
}
