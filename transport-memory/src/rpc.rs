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
    Error, ErrorKind, Name, Outcome, Result, RpcMessage, Source, Subscription,
    transport::{RpcTransport, ServeSpec},
};
use tokio::{sync::Notify, time::Instant};

use crate::{
    MemoryConfig,
    client::{Client, Open, lock},
};

/// Carries calls within this process.
pub struct MemoryRpcTransport {
    client: Client,
    config: MemoryConfig,
    open: Arc<Open>,
}

/// The queues of a broker, by API.
#[derive(Default)]
pub(crate) struct Queues(Mutex<HashMap<Name, Arc<Queue>>>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Arc<RpcMessage>>>,
    /// Rung once for each worker that there is work for.
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

    /// Puts calls that nobody has seen before all others, in their order.
    fn put_back(&self, calls: impl DoubleEndedIterator<Item = Arc<RpcMessage>>) {
        let mut waiting = lock(&self.waiting);
        for call in calls.rev() {
            waiting.push_front(call);
        }
        drop(waiting);
        self.bell.notify_one();
    }

    /// Takes what is there and has not expired, until `taken` has `max`.
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
    pub(crate) fn new(client: &Client, config: MemoryConfig) -> Self {
        Self { client: client.clone(), config, open: Open::new("the RPC transport") }
    }

    fn shut(&self) {
        self.open.close();
    }
}

crate::transport!(MemoryRpcTransport, "RPC transport");

#[async_trait]
impl RpcTransport for MemoryRpcTransport {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        const OPERATION: &str = "sending a call";
        self.open.check(OPERATION)?;
        if call.deadline <= Instant::now() {
            return Err(Error::new(ErrorKind::Timeout, "the deadline of the call has passed")
                .during(OPERATION)
                .with("api", &call.api));
        }
        let limit = self.config.max_queue_length.get();
        let queue = self.client.calls.of(&call.api);
        let api = Name::clone(&call.api);
        if !queue.push(Arc::new(call), limit) {
            return Err(Error::new(ErrorKind::Unavailable, "too many calls wait for a worker")
                .during(OPERATION)
                .with("api", api)
                .with("max_queue_length", limit)
                .hint("Is the API served? Serve it with more workers, or call it less at once"));
        }
        Ok(())
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        const OPERATION: &str = "serving calls";
        self.open.check(OPERATION)?;
        if spec.apis.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no API to serve").during(OPERATION));
        }
        let mut apis = spec.apis;
        apis.sort_unstable();
        apis.dedup();
        let source = CallSource {
            queues: apis.iter().map(|api| self.client.calls.of(api)).collect(),
            apis,
            first: AtomicUsize::new(0),
            open: Arc::clone(&self.open),
        };
        Ok(Subscription::spawn(source, spec.flow))
    }
}

/// A worker's side of the queues.
struct CallSource {
    apis: Vec<Name>,
    queues: Vec<Arc<Queue>>,
    /// The queue to look at first: another one each time, so that a busy API starves no other.
    first: AtomicUsize,
    open: Arc<Open>,
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
    /// The call itself, to be put back if nobody sees it.
    type Token = Arc<RpcMessage>;

    const REDELIVERS: bool = false;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<RpcMessage>, Arc<RpcMessage>)>> {
        loop {
            let closing = self.open.closing();
            self.open.check("taking calls")?;
            // Taken and returned without waiting in between: dropped, it has taken nothing.
            let taken = self.take(max);
            if !taken.is_empty() {
                return Ok(taken);
            }
            tokio::select! {
                () = self.ring() => {}
                () = closing => {}
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
