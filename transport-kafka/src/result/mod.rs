//! Results: a topic of which each process reads one partition, and matches results to calls by id.

mod codec;
mod path;
mod receive;
mod send;

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Name, PendingResult, PendingResults, Result, ResultMessage, ReturnPath,
    Transport, transport::ResultTransport,
};

use crate::{
    NAME, ResultConfig,
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
    /// Set while results are received.
    receiver: Mutex<Option<Receiver>>,
    /// Locked while receiving starts, so that it starts once.
    starting: tokio::sync::Mutex<()>,
}

impl KafkaResultTransport {
    pub(crate) fn new(client: Arc<Client>, config: &ResultConfig) -> Self {
        let topics = config.topics();
        Self {
            topic: path::topic(&topics.prefix),
            group: format!("{}lightbus.readers", topics.prefix),
            spec: TopicSpec::new(&topics).kept_for(Some(config.result_ttl.0)),
            fetch_wait: config.fetch_wait.0,
            handle: Handle::new(client),
            pending: PendingResults::new(),
            receiver: Mutex::new(None),
            starting: tokio::sync::Mutex::new(()),
        }
    }

    fn return_path(&self) -> Option<ReturnPath> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver
            .as_ref()
            .filter(|receiver| receiver.is_running())
            .map(|receiver| receiver.return_path.clone())
    }

    /// Starts receiving, once.
    async fn start(&self, client: &Arc<Client>) -> Result<ReturnPath> {
        let _turn = self.starting.lock().await;
        if let Some(path) = self.return_path() {
            return Ok(path);
        }
        let count = client.topic(&self.topic, &self.spec).await?;
        // Any: processes that share a partition ignore each other's results.
        let random = RandomState::new().build_hasher().finish();
        let partition = i32::try_from(random % u64::from(count.max(1).unsigned_abs())).unwrap_or(0);
        let path = ReplyPath { topic: Name::clone(&self.topic), partition };
        let receiver =
            Receiver::start(client, &self.group, path, self.fetch_wait, self.pending.clone())
                .await?;
        let path = receiver.return_path.clone();
        *self.receiver.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
        if self.handle.closing().is_closed() {
            self.stop();
        }
        Ok(path)
    }

    fn stop(&self) {
        drop(self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[async_trait]
impl ResultTransport for KafkaResultTransport {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        self.register(id)
            .await
            .map_err(|error| error.during(format!("preparing for the result of the call {id}")))
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        let id = Name::clone(&result.rpc_id);
        let sent = async {
            let client = self.handle.client(WHAT)?;
            send::send(client, &self.topic, to, &result).await
        };
        sent.await.map_err(|error| error.during(format!("sending the result of the call {id}")))
    }
}

impl KafkaResultTransport {
    async fn register(&self, id: &Name) -> Result<PendingResult> {
        let client = self.handle.client(WHAT)?;
        let path = match self.return_path() {
            Some(path) => path,
            None => self.start(client).await?,
        };
        self.pending.register(Name::clone(id), path)
    }
}

#[async_trait]
impl Transport for KafkaResultTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn broker(&self) -> String {
        self.handle.broker()
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities()
    }

    async fn open(&self) -> Result<()> {
        self.handle.open(WHAT).await
    }

    async fn close(&self) -> Result<()> {
        self.handle.close();
        self.pending.close();
        self.stop();
        Ok(())
    }
}

impl fmt::Debug for KafkaResultTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaResultTransport")
            .field("broker", &self.handle.broker())
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
