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
    MemoryConfig,
    client::{Client, Open, lock},
};

const SCHEME: &str = "memory://";

/// Carries results within this process.
pub struct MemoryResultTransport {
    client: Client,
    config: MemoryConfig,
    open: Arc<Open>,
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
    pub(crate) fn new(client: &Client, config: MemoryConfig) -> Self {
        let number = client.results.last.fetch_add(1, Ordering::Relaxed) + 1;
        let pending = PendingResults::new();
        lock(&client.results.waiting).insert(number, pending.clone());
        Self {
            client: client.clone(),
            config,
            open: Open::new("the result transport"),
            number,
            path: ReturnPath::new(format!("{SCHEME}{number}")),
            pending,
        }
    }

    fn shut(&self) {
        self.open.close();
        lock(&self.client.results.waiting).remove(&self.number);
        self.pending.close();
    }
}

impl Drop for MemoryResultTransport {
    fn drop(&mut self) {
        self.shut();
    }
}

crate::transport!(MemoryResultTransport, "result transport");

#[async_trait]
impl ResultTransport for MemoryResultTransport {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        let registered = self.pending.register(Name::clone(id), self.path.clone());
        registered.map_err(|error| error.during("expecting the result of a call"))
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        const OPERATION: &str = "sending a result";
        self.open.check(OPERATION)?;
        let number = to.as_str().strip_prefix(SCHEME).and_then(|number| number.parse().ok());
        let Some(number) = number else {
            return Err(Error::new(
                ErrorKind::Malformed,
                "the return path leads to no caller here",
            )
            .during(OPERATION)
            .with("return path", to.as_str()));
        };
        let caller = lock(&self.client.results.waiting).get::<u64>(&number).cloned();
        if let Some(caller) = caller {
            caller.complete(result);
        }
        Ok(())
    }
}
