//! Results: one list for each process, which matches results to calls by id.

mod codec;
mod receive;
mod send;

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use async_trait::async_trait;
use lightbus_core::{
    Name, PendingResult, PendingResults, Result, ResultMessage, ResultReceiver, ReturnPath, json,
    transport::ResultTransport,
};

use crate::{
    ResultConfig,
    batcher::Batcher,
    client::{Client, Handle},
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
    receiver: ResultReceiver<Receiver>,
}

impl RedisResultTransport {
    pub(crate) fn new(client: Arc<Client>, config: &ResultConfig) -> Self {
        let return_key = format!("lightbus:results:{:016x}{:016x}", random(), random());
        Self {
            handle: Handle::new(WHAT, Arc::clone(&client)),
            results: Batcher::new(ResultSender::new(client, config.result_ttl)),
            pending: PendingResults::new(),
            return_path: ReturnPath::new(format!("{RETURN_SCHEME}{return_key}")),
            return_key: return_key.into(),
            receiver: ResultReceiver::default(),
        }
    }
}

#[async_trait]
impl ResultTransport for RedisResultTransport {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        let client = self.handle.client()?;
        let start = || {
            Receiver::start(
                client,
                self.handle.closing(),
                self.return_path.clone(),
                Name::clone(&self.return_key),
                self.pending.clone(),
            )
        };
        let path = self.receiver.return_path(self.handle.closing(), start).await?;
        self.pending.register(Name::clone(id), path)
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        self.results.send(self.encode(to, &result)?).await
    }
}

impl RedisResultTransport {
    fn encode(&self, to: &ReturnPath, result: &ResultMessage) -> Result<Outgoing> {
        self.handle.client()?;
        let key = to.as_str().strip_prefix(RETURN_SCHEME).filter(|key| !key.is_empty());
        if key.is_none() {
            return Err(json::malformed("the return path does not belong to the Redis transport")
                .with("return path", json::excerpt(to.as_str().as_bytes())));
        }
        Ok(Outgoing { to: to.clone(), payload: codec::encode_result(result) })
    }
}

lightbus_core::impl_transport!(RedisResultTransport {
    capabilities: |_| crate::CAPABILITIES,
    on_close: |transport| {
        transport.pending.close();
        transport.receiver.stop();
    },
});

/// Returns a random number.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
