//! Calls: recorded, answered by mocks, and counted while they run.

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    Headers, Outcome, Result, ResultMessage, RpcMessage, Subscription,
    transport::{RpcTransport, ServeSpec},
};

use super::Tap;
use crate::testing::{
    called::Called,
    hub::Running,
    layer::delegate_transport,
    relay::{self, Pass},
};

#[derive(Debug)]
pub(super) struct Calls {
    pub(super) inner: Arc<dyn RpcTransport>,
    pub(super) tap: Tap,
}

delegate_transport!(Calls);

#[async_trait]
impl RpcTransport for Calls {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        let hub = &self.tap.hub;
        let answer = hub.mocks.answer(&call.api, &call.procedure, &call.fields);
        let called = Called::new(&call, answer.is_some());
        if !self.tap.outside {
            hub.record.called(called.clone());
        }
        let Some(answer) = answer else { return self.inner.call(call).await };
        let body = answer.give(called).await?;
        let result = ResultMessage {
            id: format!("mock-{}", call.id).into(),
            rpc_id: call.id,
            headers: Headers::new(),
            body,
        };
        hub.reply(&call.return_path, result).await
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let (apis, flow) = (spec.apis.clone(), spec.flow);
        let subscription = self.inner.serve(spec).await?;
        let running = Running::new(&self.tap.hub, apis);
        Ok(relay::calls(subscription, Arc::clone(&self.inner), flow, running))
    }
}

impl Pass<RpcMessage> for Running {
    fn arrived(&self, call: Arc<RpcMessage>) -> Arc<RpcMessage> {
        self.begin(&call);
        call
    }

    fn settled(&self, call: &RpcMessage, _: &Outcome) {
        self.end(call);
    }
}
