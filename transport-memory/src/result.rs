//! Results: handed straight to the caller that waits.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, Name, PendingResult, PendingResults, Result, ResultMessage, ReturnPath,
    transport::ResultTransport,
};

use crate::{
    CAPABILITIES,
    client::{Broker, Handle, lock},
};

const WHAT: &str = "the result transport";

const SCHEME: &str = "memory://";

/// Carries results within this process.
pub struct MemoryResultTransport {
    handle: Handle,
    broker: Arc<Broker>,
    number: u64,
    /// The scheme and the number: where results to this transport go.
    path: ReturnPath,
    pending: PendingResults,
}

/// The result transports of a broker, by number.
#[derive(Default)]
pub(crate) struct Callers {
    last: AtomicU64,
    waiting: Mutex<HashMap<u64, PendingResults>>,
}

impl MemoryResultTransport {
    pub(crate) fn new(broker: &Arc<Broker>) -> Self {
        let number = broker.results.last.fetch_add(1, Ordering::Relaxed) + 1;
        let pending = PendingResults::new();
        lock(&broker.results.waiting).insert(number, pending.clone());
        Self {
            handle: Handle::new(WHAT, Arc::clone(broker)),
            broker: Arc::clone(broker),
            number,
            path: ReturnPath::new(format!("{SCHEME}{number}")),
            pending,
        }
    }

    fn end(&self) {
        lock(&self.broker.results.waiting).remove(&self.number);
        self.pending.close();
    }
}

impl Drop for MemoryResultTransport {
    fn drop(&mut self) {
        self.end();
    }
}

lightbus_core::impl_transport!(MemoryResultTransport {
    capabilities: |_| CAPABILITIES,
    on_close: Self::end,
});

#[async_trait]
impl ResultTransport for MemoryResultTransport {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        self.pending.register(Name::clone(id), self.path.clone())
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        let broker = self.handle.client()?;
        let number = to.as_str().strip_prefix(SCHEME).and_then(|number| number.parse().ok());
        let Some(number) = number else {
            return Err(Error::new(
                ErrorKind::Malformed,
                "the return path leads to no caller here",
            )
            .with("return path", to.as_str()));
        };
        let caller = lock(&broker.results.waiting).get::<u64>(&number).cloned();
        if let Some(caller) = caller {
            caller.complete(result);
        }
        Ok(())
    }
}
