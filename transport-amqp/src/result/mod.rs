//! Results: direct reply-to, with one consumer for each process, which matches results to calls by id.

mod codec;
mod receive;
mod send;

use std::{
    fmt,
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
    publisher::Publisher,
};
pub(crate) use codec::{RETURN_PREFIX, encode_result};
use receive::Receiver;

const WHAT: &str = "the result transport";

/// Carries results over RabbitMQ's direct reply-to.
pub struct AmqpResultTransport {
    handle: Handle,
    publisher: Publisher,
    pending: PendingResults,
    /// Set while results are received.
    receiver: Mutex<Option<Receiver>>,
    /// Locked while receiving starts, so that it starts once.
    starting: tokio::sync::Mutex<()>,
}

impl AmqpResultTransport {
    pub(crate) fn new(client: Arc<Client>, config: &ResultConfig) -> Self {
        let publisher = if config.confirm { Publisher::new } else { Publisher::unconfirmed };
        Self {
            handle: Handle::new(Arc::clone(&client)),
            publisher: publisher(client),
            pending: PendingResults::new(),
            receiver: Mutex::new(None),
            starting: tokio::sync::Mutex::new(()),
        }
    }

    /// Returns where results are received now, if they are.
    fn return_path(&self) -> Option<ReturnPath> {
        let receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.as_ref().filter(|receiver| receiver.is_running()).map(Receiver::return_path)
    }

    /// Starts receiving, once.
    async fn start(&self, client: &Arc<Client>) -> Result<ReturnPath> {
        let _turn = self.starting.lock().await;
        if let Some(path) = self.return_path() {
            return Ok(path);
        }
        let receiver = Receiver::start(client, self.pending.clone()).await?;
        let path = receiver.return_path();
        *self.receiver.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
        if self.handle.closing().is_closed() {
            self.stop();
        }
        Ok(path)
    }

    fn stop(&self) {
        drop(self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

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
impl ResultTransport for AmqpResultTransport {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        self.register(id)
            .await
            .map_err(|error| error.during(format!("preparing for the result of the call {id}")))
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        let sent = async {
            self.handle.client(WHAT)?;
            send::send(&self.publisher, to, &result).await
        };
        sent.await.map_err(|error| {
            error.during(format!("sending the result of the call {}", result.rpc_id))
        })
    }
}

#[async_trait]
impl Transport for AmqpResultTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn broker(&self) -> String {
        self.handle.broker()
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities(false)
    }

    async fn open(&self) -> Result<()> {
        self.handle.open(WHAT).await
    }

    async fn close(&self) -> Result<()> {
        self.handle.close();
        self.pending.close();
        self.stop();
        self.publisher.close();
        Ok(())
    }
}

impl fmt::Debug for AmqpResultTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpResultTransport")
            .field("broker", &self.handle.broker())
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}
