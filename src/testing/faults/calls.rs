//! Calls that are delayed, lost, or fail because the broker is unavailable. None runs twice.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use lightbus_core::{
    Result, Retry, RpcMessage, Subscription,
    transport::{RpcTransport, ServeSpec},
};

use super::{At, Fault, Faults, away, path};
use crate::testing::{
    intercept::{self, Interceptor},
    layer::delegate_transport,
};

#[derive(Debug)]
pub(super) struct Calls {
    pub(super) inner: Arc<dyn RpcTransport>,
    pub(super) faults: Faults,
}

delegate_transport!(Calls);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RpcTransport for Calls {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        let path = path(&call.api, &call.procedure);
        let number = self.faults.numbers.of(&call.id, &path);
        let at = At { what: "call", path: &path, group: "", number, attempt: 1 };
        if self.faults.happens(Fault::Disconnect, &at) {
            return Err(away(Retry::Safe));
        }
        self.faults.hold_up(&at).await;
        if self.faults.happens(Fault::Drop, &at) {
            return Ok(());
        }
        self.inner.call(call).await
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let flow = spec.flow;
        let subscription = self.inner.serve(spec).await?;
        let taking = Taking { faults: self.faults.clone(), broken: AtomicBool::new(false) };
        Ok(intercept::calls(subscription, Arc::clone(&self.inner), flow, taking))
    }

    async fn backlog(&self, api: &str) -> Result<u64> {
        self.inner.backlog(api).await
    }
}

/// A worker's subscription.
struct Taking {
    faults: Faults,
    /// The connection is lost, and the next fetch will notice.
    broken: AtomicBool,
}

impl Interceptor<RpcMessage> for Taking {
    fn fetching(&self) -> Result<()> {
        if self.broken.swap(false, Ordering::AcqRel) { Err(away(Retry::Safe)) } else { Ok(()) }
    }

    fn arrived(&self, call: Arc<RpcMessage>) -> Arc<RpcMessage> {
        let path = path(&call.api, &call.procedure);
        let number = self.faults.numbers.of(&call.id, &path);
        let at = At { what: "taking the call", path: &path, group: "", number, attempt: 1 };
        if self.faults.happens(Fault::Disconnect, &at) {
            self.broken.store(true, Ordering::Release);
        }
        call
    }
}
