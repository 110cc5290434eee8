//! Results: a topic of which each process reads one partition, and matches results to calls by id.

mod codec;
mod path;
mod receive;
mod send;

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use async_trait::async_trait;
use lightbus_core::{
    Name, PendingResult, PendingResults, Result, ResultMessage, ResultReceiver, ReturnPath,
    transport::ResultTransport,
};

use crate::{
    ResultConfig,
    client::{Client, Handle},
    topic::TopicSpec,
};
pub(crate) use codec::outgoing;
pub(crate) use path::ReplyPath;
use receive::Receiver;

const WHAT: &str = "the result transport";

/// Carries results over a Kafka topic.
pub struct KafkaResultTransport {
    handle: Handle,
    pending: PendingResults,
    topic: Name,
    group: String,
    spec: TopicSpec,
    fetch_wait: std::time::Duration,
    receiver: ResultReceiver<Receiver>,
}

impl KafkaResultTransport {
    pub(crate) fn new(client: Arc<Client>, config: &ResultConfig) -> Self {
        let topics = config.topics();
        Self {
            topic: path::topic(&topics.prefix),
            group: format!("{}lightbus.readers", topics.prefix),
            spec: TopicSpec::new(&topics).kept_for(Some(config.result_ttl.0)),
            fetch_wait: config.fetch_wait.0,
            handle: Handle::new(WHAT, client),
            pending: PendingResults::new(),
            receiver: ResultReceiver::default(),
        }
    }
}

impl KafkaResultTransport {
    async fn start(&self, client: &Arc<Client>) -> Result<Receiver> {
        let count = client.topic(&self.topic, &self.spec).await?;
        // Any: processes that share a partition ignore each other's results.
        let random = RandomState::new().build_hasher().finish();
        let partition = i32::try_from(random % u64::from(count.max(1).unsigned_abs())).unwrap_or(0);
        let path = ReplyPath { topic: Name::clone(&self.topic), partition };
        Receiver::start(client, &self.group, path, self.fetch_wait, self.pending.clone()).await
    }
}

#[async_trait]
impl ResultTransport for KafkaResultTransport {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        let client = self.handle.client()?;
        let start = || self.start(client);
        let path = self.receiver.return_path(self.handle.closing(), start).await?;
        self.pending.register(Name::clone(id), path)
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        let client = self.handle.client()?;
        send::send(client, &self.topic, to, &result).await
    }
}

lightbus_core::impl_transport!(KafkaResultTransport {
    capabilities: |_| crate::CAPABILITIES,
    on_close: |transport| {
        transport.pending.close();
        transport.receiver.stop();
    },
});
