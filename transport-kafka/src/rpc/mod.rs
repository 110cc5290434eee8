//! Calls: a topic for each API, read by the consumer group of its workers.

mod codec;
mod send;
mod source;

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, Result, RpcMessage, Subscription,
    transport::{Finding, Inspect, Location, RpcTransport, ServeSpec},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    RpcConfig,
    client::{Client, Handle},
    diagnose,
    event::{lag, lag_in},
    group::Members,
    locate::{self, Readers},
    producer::cut_short,
};
use send::Queues;
use source::CallSource;

const WHAT: &str = "the RPC transport";

/// Carries calls over Kafka topics.
pub struct KafkaRpcTransport {
    handle: Handle,
    config: RpcConfig,
    queues: Arc<Queues>,
    members: Members,
}

impl KafkaRpcTransport {
    pub(crate) fn new(client: Arc<Client>, config: RpcConfig) -> Self {
        let queues = Queues::new(Arc::clone(&client), &config);
        let members = Members::default();
        Self { handle: Handle::new(WHAT, client), config, queues: Arc::new(queues), members }
    }
}

#[async_trait]
impl RpcTransport for KafkaRpcTransport {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        self.handle.client()?;
        if call.deadline <= Instant::now() {
            return Err(Error::too_late());
        }
        timeout_at(call.deadline, self.queues.send(&call))
            .await
            .unwrap_or_else(|_| Err(cut_short(&self.handle.address())))
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        self.handle.client()?;
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
        for (api, assignments) in spec.apis.iter().zip(source.assignments()) {
            self.members.add(self.queues.group(api), assignments);
        }
        Ok(Subscription::spawn(source, flow))
    }

    async fn backlog(&self, api: &str) -> Result<u64> {
        let (client, group) = (self.handle.client()?, self.queues.group(api));
        let lag = match self.members.partitions_of(&group) {
            Some(here) => lag_in(client, here, group).await?,
            None => lag(client, &[self.queues.topic(api)], group).await?,
        };
        Ok(lag.waiting)
    }
}

lightbus_core::impl_transport!(KafkaRpcTransport {
    capabilities: |_| crate::CAPABILITIES,
    inspect: |transport| transport,
});

#[async_trait]
impl Inspect for KafkaRpcTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let (client, topic) = (self.handle.client()?, self.queues.topic(api));
        let workers = Readers::One(self.queues.group(api), self.queues.prefix.clone());
        let what = "calls that wait for a worker (a topic)";
        Ok(vec![locate::topic(client, what, &topic, workers).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client()?, &self.queues.prefix).await
    }
}
