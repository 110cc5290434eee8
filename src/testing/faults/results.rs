//! Results that are delayed, lost, sent twice, or fail because the broker is unavailable.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use lightbus_core::{
    Name, PendingResult, Result, ResultMessage, Retry, ReturnPath, transport::ResultTransport,
};

use super::{At, Fault, Faults, away};
use crate::testing::layer::delegate_transport;

#[derive(Debug)]
pub(super) struct Results {
    pub(super) inner: Arc<dyn ResultTransport>,
    pub(super) faults: Faults,
    pub(super) failed: Failed,
}

/// How often sending each result has failed: workers retry, and must succeed in the end.
#[derive(Debug, Default)]
pub(super) struct Failed(Mutex<HashMap<Name, u32>>);

delegate_transport!(Results);

impl Failed {
    /// Returns the number of the attempt, from 1.
    fn attempt(&self, id: &Name) -> u32 {
        let failed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get(id).copied().unwrap_or(0) + 1
    }

    fn note(&self, id: &Name, attempt: u32) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(Name::clone(id), attempt);
    }

    fn forget(&self, id: &Name) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl ResultTransport for Results {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        self.inner.expect(id).await
    }

    async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        let (path, number) = self.faults.numbers.known(&result.rpc_id);
        let attempt = self.failed.attempt(&result.rpc_id);
        let at = At { what: "result", path: &path, group: "", number, attempt };
        if self.faults.happens(Fault::Disconnect, &at) {
            self.failed.note(&result.rpc_id, attempt);
            return Err(away(Retry::Safe));
        }
        self.failed.forget(&result.rpc_id);
        self.faults.hold_up(&at).await;
        if self.faults.happens(Fault::Drop, &at) {
            return Ok(());
        }
        if self.faults.happens(Fault::Duplicate, &at) {
            self.inner.reply(to, result.clone()).await?;
        }
        self.inner.reply(to, result).await
    }
}
