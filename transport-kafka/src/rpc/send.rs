//! Sends calls to the partitions of their API's topic, in turn.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use lightbus_core::{Error, Name, Result, RpcMessage};
use tokio::time::Instant;

use super::codec;
use crate::{
    RpcConfig,
    client::Client,
    topic::{TopicSpec, legal},
};

/// The topics of calls, and how to send to them.
pub(super) struct Queues {
    pub(super) prefix: String,
    pub(super) spec: TopicSpec,
    pub(super) client: Arc<Client>,
    /// The partition that the next call goes to, modulo their number.
    pub(super) turn: AtomicUsize,
}

impl Queues {
    pub(super) fn new(client: Arc<Client>, config: &RpcConfig) -> Self {
        let topics = config.topics();
        Self {
            prefix: topics.prefix.clone(),
            spec: TopicSpec::new(&topics).kept_for(Some(config.retention.0)),
            client,
            turn: AtomicUsize::new(rand()),
        }
    }

    /// Returns the topic of an API's calls.
    pub(super) fn topic(&self, api: &str) -> Name {
        format!("{}{}.rpc_queue", self.prefix, legal(api)).into()
    }

    /// Returns the group of an API's workers.
    pub(super) fn group(&self, api: &str) -> String {
        format!("{}{}.workers", self.prefix, legal(api))
    }

    /// Sends a call to the next partition of its topic.
    pub(super) async fn send(&self, call: &RpcMessage) -> Result<()> {
        let topic = self.topic(&call.api);
        let count = self.client.topic(&topic, &self.spec).await?;
        let left = call.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::too_late());
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let partition =
            i32::try_from(turn % usize::try_from(count).unwrap_or(1).max(1)).unwrap_or(0);
        self.client.send(vec![codec::outgoing(&topic, partition, call, left)]).await.map(drop)
    }
}

/// Returns a random start, so that callers do not all begin with the same partition.
fn rand() -> usize {
    use std::hash::{BuildHasher, Hasher};
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    usize::try_from(random & 0xffff).unwrap_or(0)
}
