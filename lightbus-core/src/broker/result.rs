//! Results: a channel for each process, which all of its callers share.

use std::{marker::PhantomData, time::Duration};

use async_trait::async_trait;
use tokio::{sync::Mutex, task::JoinHandle};

use super::{
    Broker, Channel, ChannelKind, ConsumerSpec, Message,
    consume::Member,
    safe_name,
    shared::{Handle, Shared},
    unique, wire,
};
use crate::{
    Backoff, Error, ErrorKind, Name, PendingResult, PendingResults, Result, ResultMessage,
    ReturnPath, User,
    transport::{ResultTransport, Start},
};

/// The one group that reads results.
const CALLER: &str = "caller";
/// The most results that are fetched at once.
const BATCH: usize = 256;

/// Carries results over a [`Broker`].
pub struct BrokerResultTransport<B: Broker> {
    handle: Handle<B>,
    inbox: Name,
    pending: PendingResults,
    /// Receives results, from the first call on.
    receiving: Mutex<Option<JoinHandle<()>>>,
}

super::transport!(BrokerResultTransport);

impl<B: Broker> BrokerResultTransport<B> {
    pub(super) fn new(user: User<Shared<B>>) -> Self {
        Self {
            handle: Handle::new(user, "the result transport"),
            inbox: unique(),
            pending: PendingResults::new(),
            receiving: Mutex::new(None),
        }
    }

    async fn shut(&self) {
        self.pending.close();
        // It leaves its channel as soon as it sees that the transport is closed.
        let receiving = async {
            if let Some(receiving) = self.receiving.lock().await.take() {
                let _ = receiving.await;
            }
        };
        self.handle.close(receiving).await;
    }

    async fn register(&self, id: &Name) -> Result<PendingResult> {
        self.handle.open_shared()?;
        let mut receiving = self.receiving.lock().await;
        if receiving.as_ref().is_none_or(JoinHandle::is_finished) {
            let spec = ConsumerSpec {
                channel: channel(&self.inbox),
                group: CALLER.into(),
                process: Name::clone(&self.inbox),
                start: Start::New,
            };
            let member = Member::join(&self.handle, spec, "receiving results").await?;
            *receiving = Some(tokio::spawn(receive(member, self.pending.clone())));
        }
        drop(receiving);
        self.pending.register(Name::clone(id), ReturnPaths::<B>::to(&self.inbox))
    }
}

impl<B: Broker> Drop for BrokerResultTransport<B> {
    fn drop(&mut self) {
        self.pending.close();
        if let Some(receiving) = self.receiving.get_mut().take() {
            receiving.abort();
        }
    }
}

#[async_trait]
impl<B: Broker> ResultTransport for BrokerResultTransport<B> {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        self.register(id).await.map_err(|error| error.during("expecting the result of a call"))
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        self.handle
            .during("sending a result", async |shared| {
                let message = message(ReturnPaths::<B>::inbox(to)?, &result, &shared.broker)?;
                shared.publish(vec![message]).await.map(drop)
            })
            .await
    }
}

/// The message that carries a result to an inbox.
pub(super) fn message<B: Broker>(
    inbox: &str,
    result: &ResultMessage,
    broker: &B,
) -> Result<Message> {
    let payload = wire::encode_result(result)?;
    Ok(Message { ttl: Some(broker.result_ttl()), ..Message::new(channel(inbox), payload) })
}

fn channel(inbox: &str) -> Channel {
    Channel { kind: ChannelKind::Results, name: safe_name(inbox) }
}

/// Return paths of one kind of broker: `{name}:results:{inbox}`.
pub(super) struct ReturnPaths<B>(PhantomData<B>);

impl<B: Broker> ReturnPaths<B> {
    fn to(inbox: &str) -> ReturnPath {
        ReturnPath::new(format!("{}:results:{inbox}", B::NAME))
    }

    pub(super) fn inbox(path: &ReturnPath) -> Result<&str> {
        let rest = path.as_str().strip_prefix(B::NAME);
        let inbox = rest.and_then(|rest| rest.strip_prefix(":results:"));
        inbox.filter(|inbox| !inbox.is_empty()).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, "the return path leads to no caller of this transport")
                .with("return path", path.as_str())
        })
    }
}

/// Receives the results of a process until it closes.
async fn receive<B: Broker>(member: Member<B>, pending: PendingResults) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        match member.fetch(BATCH).await {
            Ok(received) => {
                backoff.succeeded();
                let mut tokens = Vec::with_capacity(received.len());
                for received in received {
                    match wire::decode_result(&received.payload) {
                        Ok(result) => {
                            pending.complete(result);
                        }
                        Err(error) => {
                            if let Some(id) = wire::salvage_result(&received.payload) {
                                pending.fail_unreadable(&id, &error);
                            }
                            tracing::warn!(%error, id = &*received.id, "a result that cannot be read was dropped");
                        }
                    }
                    tokens.push(received.token);
                }
                // A result that is redelivered no longer has a caller, and is dropped.
                if let Err(error) = member.ack(tokens).await {
                    tracing::debug!(%error, "results were not acknowledged");
                }
            }
            Err(error) if error.is_temporary() => {
                let wait = backoff.failed();
                if backoff.failures() == 1 {
                    tracing::warn!(%error, "receiving results was interrupted, trying again");
                }
                tokio::time::sleep(wait).await;
            }
            Err(error) => {
                if error.kind() != ErrorKind::Closed {
                    tracing::error!(%error, "receiving results ended");
                }
                break;
            }
        }
    }
    member.close().await;
}
