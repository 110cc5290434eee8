//! Calls: a channel for each API, read by one group.
//!
//! A call runs at most once, so it is acknowledged before it is handed out: if the worker dies it is
//! lost, and its caller learns that from the deadline. A call that was
//! fetched and not handed out when the worker stops is published again. A call that cannot be read is
//! answered where possible.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::time::{Instant, timeout_at};

use super::{
    Broker, Channel, ChannelKind, ConsumerSpec, Message, Received,
    consume::{Member, Token},
    result::{self, ReturnPaths},
    safe_name,
    shared::{Handle, Shared},
    unique, wire,
};
use crate::{
    Error, ErrorKind, Merge, Name, Outcome, RemoteError, Result, ResultMessage, RpcMessage, Source,
    Subscription, User,
    transport::{RpcTransport, ServeSpec, Start},
};

/// The one group that reads calls.
const WORKERS: &str = "workers";

/// Carries calls over a [`Broker`].
pub struct BrokerRpcTransport<B: Broker> {
    handle: Handle<B>,
}

super::transport!(BrokerRpcTransport);

impl<B: Broker> BrokerRpcTransport<B> {
    pub(super) fn new(user: User<Shared<B>>) -> Self {
        Self { handle: Handle::new(user, "the RPC transport") }
    }

    async fn shut(&self) {
        self.handle.close(async {}).await;
    }

    async fn send(&self, call: RpcMessage) -> Result<()> {
        let shared = self.handle.open_shared()?;
        let now = Instant::now();
        if call.deadline <= now {
            return Err(Error::too_late());
        }
        let published = timeout_at(call.deadline, shared.publish(vec![message(&call, now)?]));
        published.await.unwrap_or_else(|_| Err(Error::unconfirmed()))?;
        Ok(())
    }

    async fn start(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let shared = self.handle.open_shared()?;
        let mut apis = spec.apis;
        apis.sort_unstable();
        apis.dedup();
        if apis.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no API to serve"));
        }
        let process = unique();
        let mut sources = Vec::with_capacity(apis.len());
        for api in apis {
            let spec = ConsumerSpec {
                channel: channel(&api),
                group: WORKERS.into(),
                process: Name::clone(&process),
                start: Start::Earliest,
            };
            let member = Member::join(&self.handle, spec, "taking calls").await?;
            sources.push(CallSource { api, member, shared: Arc::clone(shared) });
        }
        Ok(match sources.pop() {
            Some(source) if sources.is_empty() => Subscription::spawn(source, spec.flow),
            source => Subscription::spawn(
                Merge::new(sources.into_iter().chain(source).collect()),
                spec.flow,
            ),
        })
    }
}

#[async_trait]
impl<B: Broker> RpcTransport for BrokerRpcTransport<B> {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        let operation = format!("calling {}.{}", call.api, call.procedure);
        self.send(call).await.map_err(|error| error.during(operation))
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let operation = format!("serving {}", spec.apis.join(", "));
        self.start(spec).await.map_err(|error| error.during(operation))
    }
}

fn channel(api: &str) -> Channel {
    Channel { kind: ChannelKind::Calls, name: safe_name(api) }
}

fn message(call: &RpcMessage, now: Instant) -> Result<Message> {
    let left = call.deadline.saturating_duration_since(now);
    let payload = wire::encode_call(call, left)?;
    Ok(Message { ttl: Some(left), ..Message::new(channel(&call.api), payload) })
}

/// A worker's side of one channel.
struct CallSource<B: Broker> {
    api: Name,
    member: Member<B>,
    shared: Arc<Shared<B>>,
}

impl<B: Broker> CallSource<B> {
    /// The call, if it can be read and its caller still waits.
    async fn accept(&self, received: Received<Token<B>>) -> Option<Arc<RpcMessage>> {
        let read = wire::decode_call(&received.payload, received.age).and_then(|call| {
            RpcMessage::check_api(&call.api, &self.api)?;
            Ok(call)
        });
        match read {
            Ok(call) if call.deadline > Instant::now() => Some(Arc::new(call)),
            Ok(call) => {
                tracing::debug!(api = %call.api, id = %call.id, "a call expired before a worker took it");
                None
            }
            Err(error) => {
                let id = &*received.id;
                tracing::warn!(%error, id, "a call that cannot be read was rejected");
                self.refuse(&received.payload, &error).await;
                None
            }
        }
    }

    /// Answers a call that cannot be read, where its id and return path can be made out.
    async fn refuse(&self, payload: &[u8], error: &Error) {
        let Some((id, path)) = wire::salvage_call(payload) else { return };
        let message = format!("the call cannot be read: {}", error.message());
        let answer = ResultMessage {
            id: unique(),
            rpc_id: id,
            headers: Default::default(),
            body: Err(RemoteError { message, ..RemoteError::default() }),
        };
        let sent = async {
            let message =
                result::message(ReturnPaths::<B>::inbox(&path)?, &answer, &self.shared.broker)?;
            self.shared.publish(vec![message]).await
        };
        if let Err(error) = sent.await {
            tracing::debug!(%error, "a call that cannot be read was not answered");
        }
    }
}

#[async_trait]
impl<B: Broker> Source for CallSource<B> {
    type Message = RpcMessage;
    /// The call itself, published again if it was not handed out.
    type Token = Arc<RpcMessage>;

    const REDELIVERS: bool = false;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<RpcMessage>, Arc<RpcMessage>)>> {
        let received = self.member.fetch(max).await?;
        // Not handed out unless this is sure: they would run here and with whoever gets them next.
        self.member.ack(received.iter().map(|received| received.token.clone()).collect()).await?;
        let mut calls = Vec::with_capacity(received.len());
        for received in received {
            calls.extend(self.accept(received).await.map(|call| (Arc::clone(&call), call)));
        }
        Ok(calls)
    }

    async fn settle(&self, settled: &[(Arc<RpcMessage>, Outcome)]) -> Result<()> {
        let now = Instant::now();
        let unseen = settled
            .iter()
            .filter(|(call, outcome)| matches!(outcome, Outcome::Retry) && call.deadline > now);
        let messages = unseen.map(|(call, _)| message(call, now)).collect::<Result<Vec<_>>>()?;
        if messages.is_empty() {
            return Ok(());
        }
        let published = self.shared.publish(messages).await;
        published.map(drop).map_err(|error| error.during("giving back calls"))
    }

    fn size(&self, call: &RpcMessage) -> usize {
        call.fields.size()
    }

    async fn interrupt(&self) -> bool {
        // Soon over, and what it takes is acknowledged already.
        true
    }

    async fn close(&self) -> Result<()> {
        self.member.close().await;
        Ok(())
    }
}
