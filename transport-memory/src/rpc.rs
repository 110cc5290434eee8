//! Calls: a bounded queue per API.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use futures_util::future::select_all;
use lightbus_core::{
    Error, ErrorKind, Name, Outcome, Result, RpcMessage, Source, Subscription,
    transport::{RpcTransport, ServeSpec},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    MemoryConfig,
    broker::{Broker, Life, Queue, closed, ended, lock},
    transport,
};

/// Carries calls within the process.
#[derive(Debug)]
pub struct MemoryRpcTransport {
    broker: Arc<Broker>,
    config: MemoryConfig,
    pub(crate) life: Life,
}

transport!(MemoryRpcTransport);

impl MemoryRpcTransport {
    pub(crate) fn new(broker: Arc<Broker>, config: MemoryConfig) -> Self {
        Self { broker, config, life: Life::new() }
    }
}

#[async_trait]
impl RpcTransport for MemoryRpcTransport {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        self.life.ensure_open()?;
        if call.deadline <= Instant::now() {
            return Err(Error::new(ErrorKind::Timeout, "the call's deadline has passed"));
        }
        let queue = self.broker.queue(&call.api);
        {
            let mut calls = lock(&queue.calls);
            if calls.len() >= self.config.max_queue_length {
                drop_expired(&mut calls);
            }
            if calls.len() >= self.config.max_queue_length {
                return Err(Error::new(ErrorKind::Unavailable, "the queue of calls is full")
                    .with("api", &call.api)
                    .with("max_queue_length", self.config.max_queue_length)
                    .hint("Are there enough workers?"));
            }
            calls.push_back(call);
        }
        queue.bell.notify_one();
        Ok(())
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        self.life.ensure_open()?;
        if spec.apis.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no API to serve").during("serving"));
        }
        let queues = spec.apis.iter().map(|api| self.broker.queue(api)).collect();
        Ok(Subscription::spawn(
            Calls { queues, apis: spec.apis, life: self.life.watch() },
            spec.flow,
        ))
    }
}

fn drop_expired(calls: &mut VecDeque<RpcMessage>) {
    let now = Instant::now();
    calls.retain(|call| call.deadline > now);
}

struct Calls {
    queues: Vec<Arc<Queue>>,
    apis: Vec<Name>,
    life: watch::Receiver<bool>,
}

impl Calls {
    fn take(&self, max: usize) -> Vec<(RpcMessage, RpcMessage)> {
        let now = Instant::now();
        let mut taken = Vec::new();
        for queue in &self.queues {
            let mut calls = lock(&queue.calls);
            while taken.len() < max {
                let Some(call) = calls.pop_front() else { break };
                // Its caller has given up: nobody runs it.
                if call.deadline > now {
                    taken.push((call.clone(), call));
                }
            }
            if !calls.is_empty() {
                // There is more, for this worker or another.
                queue.bell.notify_one();
            }
        }
        taken
    }
}

#[async_trait]
impl Source for Calls {
    type Message = RpcMessage;
    type Token = RpcMessage;
    const REDELIVERS: bool = false;

    // Cancel safe: what is taken is returned without another await.
    async fn fetch(&self, max: usize) -> Result<Vec<(RpcMessage, RpcMessage)>> {
        let mut life = self.life.clone();
        loop {
            if !*life.borrow() {
                return Err(closed());
            }
            let bells = select_all(self.queues.iter().map(|queue| Box::pin(queue.bell.notified())));
            let taken = self.take(max);
            if !taken.is_empty() {
                return Ok(taken);
            }
            tokio::select! {
                _ = bells => {}
                () = ended(&mut life) => {}
            }
        }
    }

    async fn settle(&self, settled: &[(RpcMessage, Outcome)]) -> Result<()> {
        // What nobody has seen goes back to where it came from, in its order.
        for (call, outcome) in settled.iter().rev() {
            if let (Outcome::Retry, Some(index)) =
                (outcome, self.apis.iter().position(|api| *api == call.api))
            {
                lock(&self.queues[index].calls).push_front(call.clone());
                self.queues[index].bell.notify_one();
            }
        }
        Ok(())
    }
}
