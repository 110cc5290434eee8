//! Results: straight to the caller that waits.

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, Name, PendingResult, PendingResults, Result, ResultMessage, ReturnPath,
    transport::ResultTransport,
};

use crate::broker::{Broker, Life};

const SCHEME: &str = "memory://";

/// Carries results within the process.
#[derive(Debug)]
pub struct MemoryResultTransport {
    broker: Arc<Broker>,
    process: Name,
    return_path: ReturnPath,
    results: PendingResults,
    pub(crate) life: Life,
}

impl MemoryResultTransport {
    pub(crate) fn new(broker: Arc<Broker>) -> Self {
        let process: Name = broker.next_id().to_string().into();
        let results = PendingResults::new();
        broker.add_caller(Name::clone(&process), results.clone());
        let return_path = ReturnPath::new(format!("{SCHEME}{process}"));
        Self { broker, process, return_path, results, life: Life::new() }
    }
}

#[async_trait]
impl lightbus_core::Transport for MemoryResultTransport {
    fn name(&self) -> &'static str {
        crate::NAME
    }

    fn broker(&self) -> String {
        "this process".to_owned()
    }

    fn capabilities(&self) -> lightbus_core::Capabilities {
        crate::capabilities()
    }

    async fn open(&self) -> Result<()> {
        self.life.ensure_open()
    }

    async fn close(&self) -> Result<()> {
        self.life.close();
        self.results.close();
        Ok(())
    }
}

impl Drop for MemoryResultTransport {
    fn drop(&mut self) {
        self.broker.remove_caller(&self.process);
    }
}

#[async_trait]
impl ResultTransport for MemoryResultTransport {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        self.results.register(Name::clone(id), self.return_path.clone())
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        self.life.ensure_open()?;
        let process = to.as_str().strip_prefix(SCHEME).ok_or_else(|| {
            Error::new(ErrorKind::Malformed, "the return path is not one of the memory transport")
                .during("sending a result")
                .with("return path", to.as_str())
        })?;
        if let Some(results) = self.broker.caller(process) {
            results.complete(result);
        }
        Ok(())
    }
}
