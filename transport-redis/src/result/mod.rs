//! Results: one list for each process, which matches results to calls by id.

mod codec;
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
    batcher::Batcher,
    client::{Client, Handle},
    json,
};
pub(crate) use codec::{RETURN_SCHEME, encode_result};
use receive::Receiver;
use send::{Outgoing, ResultSender};

const WHAT: &str = "the result transport";

/// Carries results over Redis lists.
pub struct RedisResultTransport {
    handle: Handle,
    results: Batcher<ResultSender>,
    pending: PendingResults,
    return_key: Name,
    return_path: ReturnPath,
    /// Set while results are received.
    receiver: Mutex<Option<Receiver>>,
    /// Locked while receiving starts, so that it starts once.
    starting: tokio::sync::Mutex<()>,
}

impl RedisResultTransport {
    pub(crate) fn new(client: Arc<Client>, config: &ResultConfig) -> Self {
        let return_key = format!("lightbus:results:{:016x}{:016x}", random(), random());
        Self {
            handle: Handle::new(Arc::clone(&client)),
            results: Batcher::new(ResultSender::new(client, config.result_ttl)),
            pending: PendingResults::new(),
            return_path: ReturnPath::new(format!("{RETURN_SCHEME}{return_key}")),
            return_key: return_key.into(),
            receiver: Mutex::new(None),
            starting: tokio::sync::Mutex::new(()),
        }
    }

    fn is_receiving(&self) -> bool {
        self.receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(Receiver::is_running)
    }

    /// Starts receiving, once.
    async fn start(&self, client: &Arc<Client>) -> Result<()> {
        let _turn = self.starting.lock().await;
        if self.is_receiving() {
            return Ok(());
        }
        let receiver = Receiver::start(
            client,
            self.handle.closing(),
            Name::clone(&self.return_key),
            self.pending.clone(),
        )
        .await?;
        *self.receiver.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
        if self.handle.closing().is_closed() {
            self.stop();
        }
        Ok(())
    }

    fn stop(&self) {
        drop(self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

#[async_trait]
impl ResultTransport for RedisResultTransport {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        self.register(id)
            .await
            .map_err(|error| error.during(format!("preparing for the result of the call {id}")))
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        let sent = match self.encode(to, &result) {
            Ok(outgoing) => self.results.send(outgoing).await,
            Err(error) => Err(error),
        };
        sent.map_err(|error| {
            error.during(format!("sending the result of the call {}", result.rpc_id))
        })
    }
}

impl RedisResultTransport {
    async fn register(&self, id: &Name) -> Result<PendingResult> {
        let client = self.handle.client(WHAT)?;
        if !self.is_receiving() {
            // Boxed: it happens once, and would be part of every call's future.
            Box::pin(self.start(client)).await?;
        }
        self.pending.register(Name::clone(id), self.return_path.clone())
    }

    fn encode(&self, to: &ReturnPath, result: &ResultMessage) -> Result<Outgoing> {
        self.handle.client(WHAT)?;
        let key = to.as_str().strip_prefix(RETURN_SCHEME).filter(|key| !key.is_empty());
        if key.is_none() {
            return Err(json::malformed("the return path does not belong to the Redis transport")
                .with("return path", json::excerpt(to.as_str().as_bytes())));
        }
        Ok(Outgoing { to: to.clone(), payload: codec::encode_result(result) })
    }
}

#[async_trait]
impl Transport for RedisResultTransport {
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

impl fmt::Debug for RedisResultTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisResultTransport")
            .field("broker", &self.handle.broker())
            .field("return_key", &self.return_key)
            .field("pending", &self.pending)
            .finish_non_exhaustive()
    }
}

/// Returns a random number.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
