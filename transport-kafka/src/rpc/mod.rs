//! Calls: a topic for each API, read by the consumer group of its workers.

mod codec;
mod send;
mod source;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Error, ErrorKind, Result, RpcMessage, Subscription, Transport,
    transport::{Finding, Inspect, Location, RpcTransport, ServeSpec},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    NAME, RpcConfig,
    client::{Client, Handle},
    diagnose,
    locate::{self, Readers},
    producer::cut_short,
};
use send::{Queues, too_late};
use source::CallSource;

const WHAT: &str = "the RPC transport";

/// Carries calls over Kafka topics.
pub struct KafkaRpcTransport {
    handle: Handle,
    config: RpcConfig,
    queues: Arc<Queues>,
}

impl KafkaRpcTransport {
    pub(crate) fn new(client: Arc<Client>, config: RpcConfig) -> Self {
        let queues = Queues::new(Arc::clone(&client), &config);
        Self { handle: Handle::new(client), config, queues: Arc::new(queues) }
    }
}

#[async_trait]
impl RpcTransport for KafkaRpcTransport {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        self.queue(&call).await.map_err(|error| {
            error.during(format!("queueing a call of {}.{}", call.api, call.procedure))
        })
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let apis = spec.apis.join(", ");
        self.take(spec).await.map_err(|error| error.during(format!("serving {apis}")))
    }
}

impl KafkaRpcTransport {
    async fn queue(&self, call: &RpcMessage) -> Result<()> {
        self.handle.client(WHAT)?;
        if call.deadline <= Instant::now() {
            return Err(too_late());
        }
        timeout_at(call.deadline, self.queues.send(call))
            .await
            .unwrap_or_else(|_| Err(cut_short(&self.handle.broker())))
    }

    async fn take(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        self.handle.client(WHAT)?;
        if spec.apis.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no API to serve"));
        }
        let mut flow = spec.flow;
        if let Some(most) = self.config.batch_size {
            flow.batch = flow.batch.min(most.max(1));
        }
        let source =
            CallSource::start(&self.queues, self.handle.closing(), &spec.apis, &self.config)
                .await?;
        Ok(Subscription::spawn(source, flow))
    }
}

#[async_trait]
impl Transport for KafkaRpcTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn broker(&self) -> String {
        self.handle.broker()
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities()
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    async fn open(&self) -> Result<()> {
        self.handle.open(WHAT).await
    }

    async fn close(&self) -> Result<()> {
        self.handle.close();
        Ok(())
    }
}

#[async_trait]
impl Inspect for KafkaRpcTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let (client, topic) = (self.handle.client(WHAT)?, self.queues.topic(api));
        let workers = Readers::One(self.queues.group(api), self.queues.prefix.clone());
        let what = "calls that wait for a worker (a topic)";
        Ok(vec![locate::topic(client, what, &topic, workers).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client(WHAT)?, &self.queues.prefix).await
    }
}

impl fmt::Debug for KafkaRpcTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaRpcTransport")
            .field("broker", &self.handle.broker())
            .finish_non_exhaustive()
    }
}
