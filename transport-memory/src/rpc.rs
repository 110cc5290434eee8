//! Calls: a bounded queue for each API.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures_util::future::select_all;
use lightbus_core::{
    Closing, Error, ErrorKind, Name, Outcome, Result, RpcMessage, Source, Subscription,
    transport::{RpcTransport, ServeSpec},
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    CAPABILITIES, MemoryConfig,
    client::{Broker, Handle, lock},
};

const WHAT: &str = "the RPC transport";

/// Carries calls within this process.
pub struct MemoryRpcTransport {
    handle: Handle,
    config: MemoryConfig,
}

/// The queues of a broker, by API.
#[derive(Default)]
pub(crate) struct Queues(Mutex<HashMap<Name, Arc<Queue>>>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Arc<RpcMessage>>>,
    /// Wakes one worker for each call.
    bell: Notify,
}

impl Queues {
    fn of(&self, api: &Name) -> Arc<Queue> {
        let mut queues = lock(&self.0);
        if let Some(queue) = queues.get(api) {
            return Arc::clone(queue);
        }
        Arc::clone(queues.entry(Name::clone(api)).or_default())
    }
}

impl Queue {
    /// Adds a call, unless there are `limit` already that have not expired.
    fn push(&self, call: Arc<RpcMessage>, limit: usize) -> bool {
        let mut waiting = lock(&self.waiting);
        if waiting.len() >= limit {
            let now = Instant::now();
            waiting.retain(|call| call.deadline > now);
            if waiting.len() >= limit {
                return false;
            }
        }
        waiting.push_back(call);
        drop(waiting);
        self.bell.notify_one();
        true
    }

    /// Returns how many calls wait that have not expired.
    fn len(&self) -> u64 {
        let now = Instant::now();
        lock(&self.waiting).iter().filter(|call| call.deadline > now).count() as u64
    }

    /// Puts calls that no worker has seen back at the head, in their order.
    fn put_back(&self, calls: impl DoubleEndedIterator<Item = Arc<RpcMessage>>) {
        let mut waiting = lock(&self.waiting);
        for call in calls.rev() {
            waiting.push_front(call);
        }
        drop(waiting);
        self.bell.notify_one();
    }

    /// Takes calls that have not expired, until `taken` has `max`.
    fn take(&self, max: usize, taken: &mut Vec<Arc<RpcMessage>>) {
        let now = Instant::now();
        let mut waiting = lock(&self.waiting);
        while taken.len() < max {
            match waiting.pop_front() {
                Some(call) if call.deadline > now => taken.push(call),
                Some(expired) => {
                    tracing::debug!(api = %expired.api, id = %expired.id, "a call expired before a worker took it");
                }
                None => break,
            }
        }
        let more = !waiting.is_empty();
        drop(waiting);
        if more {
            // For the next worker: the bell may have rung only once for all of them.
            self.bell.notify_one();
        }
    }
}

impl MemoryRpcTransport {
    pub(crate) fn new(broker: &Arc<Broker>, config: MemoryConfig) -> Self {
        Self { handle: Handle::new(WHAT, Arc::clone(broker)), config }
    }
}

lightbus_core::impl_transport!(MemoryRpcTransport { capabilities: |_| CAPABILITIES });

#[async_trait]
impl RpcTransport for MemoryRpcTransport {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        let broker = self.handle.client()?;
        if call.deadline <= Instant::now() {
            return Err(Error::too_late().with("api", &call.api));
        }
        let limit = self.config.max_queue_length.get();
        let queue = broker.calls.of(&call.api);
        let api = Name::clone(&call.api);
        if !queue.push(Arc::new(call), limit) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "too many calls are waiting for a worker",
            )
            .with("api", api)
            .with("max_queue_length", limit)
            .hint("Is the API served? Serve it with more workers, or call it less at once"));
        }
        Ok(())
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let broker = self.handle.client()?;
        if spec.apis.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no API to serve"));
        }
        let mut apis = spec.apis;
        apis.sort_unstable();
        apis.dedup();
        let source = CallSource {
            queues: apis.iter().map(|api| broker.calls.of(api)).collect(),
            apis,
            first: AtomicUsize::new(0),
            closing: Arc::clone(self.handle.closing()),
        };
        Ok(Subscription::spawn(source, spec.flow))
    }

    async fn backlog(&self, api: &str) -> Result<u64> {
        Ok(self.handle.client()?.calls.of(&api.into()).len())
    }
}

/// A worker's side of the queues.
struct CallSource {
    apis: Vec<Name>,
    queues: Vec<Arc<Queue>>,
    /// Where the next fetch begins: at another queue each time, so that a busy API starves no other.
    first: AtomicUsize,
    closing: Arc<Closing>,
}

impl CallSource {
    fn take(&self, max: usize) -> Vec<(Arc<RpcMessage>, Arc<RpcMessage>)> {
        let mut taken = Vec::new();
        let first = self.first.fetch_add(1, Ordering::Relaxed);
        for index in 0..self.queues.len() {
            let queue = &self.queues[first.wrapping_add(index) % self.queues.len()];
            // Also when there is no room left: then the bell rings on for another worker.
            queue.take(max, &mut taken);
        }
        taken.into_iter().map(|call| (Arc::clone(&call), call)).collect()
    }

    async fn ring(&self) {
        match &*self.queues {
            [queue] => queue.bell.notified().await,
            // A ring that another bell's outran is passed on when it is dropped.
            queues => {
                select_all(queues.iter().map(|queue| Box::pin(queue.bell.notified()))).await;
            }
        }
    }
}

#[async_trait]
impl Source for CallSource {
    type Message = RpcMessage;
    /// The call itself, to be put back if no worker sees it.
    type Token = Arc<RpcMessage>;

    const REDELIVERS: bool = false;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<RpcMessage>, Arc<RpcMessage>)>> {
        loop {
            self.closing.check(WHAT)?;
            // Taken and returned without an await in between: if the future is dropped, it has taken
            // nothing.
            let taken = self.take(max);
            if !taken.is_empty() {
                return Ok(taken);
            }
            tokio::select! {
                () = self.ring() => {}
                () = self.closing.closed() => {}
            }
        }
    }

    async fn settle(&self, settled: &[(Arc<RpcMessage>, Outcome)]) -> Result<()> {
        for (api, queue) in self.apis.iter().zip(&self.queues) {
            let unseen = |(call, outcome): &&(Arc<RpcMessage>, Outcome)| {
                call.api == *api && matches!(outcome, Outcome::Retry)
            };
            if settled.iter().any(|settled| unseen(&settled)) {
                queue.put_back(settled.iter().filter(unseen).map(|(call, _)| Arc::clone(call)));
            }
        }
        Ok(())
    }
}
