//! Calls: a list for each API as its queue, and a key for each call that lives as long as its caller
//! waits.

mod codec;
mod expiry;
mod prune;
mod send;
mod source;

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, Result, Retry, RpcMessage, Subscription,
    time::deadline_after,
    transport::{Finding, Inspect, Location, RpcTransport, ServeSpec},
};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::{
    RpcConfig,
    batcher::Batcher,
    client::{Client, Handle},
    diagnose,
    error::Sent,
    locate, value,
};
use send::{CallSender, Outgoing};
use source::CallSource;

const WHAT: &str = "the RPC transport";
/// How often sending a call is attempted, as in Python.
const TRIES: u32 = 3;

/// Carries calls over Redis lists.
pub struct RedisRpcTransport {
    handle: Handle,
    config: RpcConfig,
    calls: Batcher<CallSender>,
}

impl RedisRpcTransport {
    pub(crate) fn new(client: Arc<Client>, config: RpcConfig) -> Self {
        Self {
            handle: Handle::new(WHAT, Arc::clone(&client)),
            calls: Batcher::new(CallSender::new(client)),
            config,
        }
    }

    /// Sends a call, and retries until it may have been sent or there is no time for another attempt.
    async fn send(&self, call: &Arc<Outgoing>) -> Result<()> {
        let mut tries = 1;
        loop {
            let error = match self.calls.send(Arc::clone(call)).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let again = deadline_after(self.config.rpc_retry_delay.0);
            if error.retryable() != Retry::Safe || tries == TRIES || again >= call.deadline {
                return Err(error);
            }
            tracing::debug!(%error, "a call could not be sent, retrying");
            tries += 1;
            // Boxed: it is rare, and would be part of every call's future.
            Box::pin(sleep_until(again)).await;
        }
    }

    /// Encodes a call.
    fn encode(&self, call: RpcMessage) -> Result<Arc<Outgoing>> {
        self.handle.client()?;
        let left = call.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::too_late());
        }
        Ok(Arc::new(Outgoing {
            payload: codec::encode_call(&call, left),
            deadline: call.deadline,
            api: call.api,
            id: call.id,
        }))
    }

    fn late(&self) -> Error {
        Error::unconfirmed().with("broker", format_args!("redis {}", self.handle.address()))
    }
}

#[async_trait]
impl RpcTransport for RedisRpcTransport {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        let call = self.encode(call)?;
        timeout_at(call.deadline, self.send(&call)).await.unwrap_or_else(|_| Err(self.late()))
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let client = self.handle.client()?;
        if spec.apis.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no API to serve"));
        }
        let mut flow = spec.flow;
        if let Some(most) = self.config.batch_size {
            flow.batch = flow.batch.min(most.max(1));
        }
        #[cfg(feature = "cluster")]
        if client.is_cluster() && spec.apis.len() > 1 {
            let mut sources = Vec::with_capacity(spec.apis.len());
            for api in &spec.apis {
                let api = std::slice::from_ref(api);
                let source = CallSource::new(client, self.handle.closing(), api, &self.config);
                source.connect().await?;
                sources.push(source);
            }
            return Ok(Subscription::spawn(lightbus_core::Merge::new(sources), flow));
        }
        let source = CallSource::new(client, self.handle.closing(), &spec.apis, &self.config);
        source.connect().await?;
        Ok(Subscription::spawn(source, flow))
    }

    async fn backlog(&self, api: &str) -> Result<u64> {
        let mut length = redis::cmd("LLEN");
        length.arg(queue_key(api));
        let length = self.handle.client()?.command(&length, Sent::Harmless).await?;
        Ok(value::int(&length).and_then(|length| u64::try_from(length).ok()).unwrap_or(0))
    }
}

lightbus_core::impl_transport!(RedisRpcTransport {
    capabilities: |_| crate::CAPABILITIES,
    inspect: |transport| transport,
});

#[async_trait]
impl Inspect for RedisRpcTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client()?;
        Ok(vec![locate::queue(client, &queue_key(api)).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client()?).await
    }
}

/// Returns the list of an API's calls.
fn queue_key(api: &str) -> String {
    format!("{api}:rpc_queue")
}
