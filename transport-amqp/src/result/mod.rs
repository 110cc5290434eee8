//! Results: direct reply-to, with one consumer for each process, which matches results to calls by id.

mod codec;
mod receive;
mod send;

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    Name, PendingResult, PendingResults, Result, ResultMessage, ResultReceiver, ReturnPath,
    transport::ResultTransport,
};

use crate::{
    ResultConfig,
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
    receiver: ResultReceiver<Receiver>,
}

impl AmqpResultTransport {
    pub(crate) fn new(client: Arc<Client>, config: &ResultConfig) -> Self {
        let publisher = if config.confirm { Publisher::new } else { Publisher::unconfirmed };
        Self {
            handle: Handle::new(WHAT, Arc::clone(&client)),
            publisher: publisher(client),
            pending: PendingResults::new(),
            receiver: ResultReceiver::default(),
        }
    }
}

#[async_trait]
impl ResultTransport for AmqpResultTransport {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        let client = self.handle.client()?;
        let start = || Receiver::start(client, self.pending.clone());
        loop {
            let path = self.receiver.return_path(self.handle.closing(), start).await?;
            let pending = self.pending.register(Name::clone(id), path.clone())?;
            // Lost meanwhile, it has failed those that were registered before this one.
            if self.receiver.is_at(&path) || self.handle.closing().is_closed() {
                return Ok(pending);
            }
        }
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        self.handle.client()?;
        send::send(&self.publisher, to, &result).await
    }
}

lightbus_core::impl_transport!(AmqpResultTransport {
    capabilities: |_| crate::capabilities(false),
    on_close: |transport| {
        transport.pending.close();
        transport.receiver.stop();
        transport.publisher.close();
    },
});
