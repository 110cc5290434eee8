//! Calls: recorded, answered by mocks, and counted while they are in flight.

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{
    Headers, Outcome, Result, ResultMessage, RpcMessage, Subscription,
    transport::{RpcTransport, ServeSpec},
};

use super::Spy;
use crate::testing::{
    called::Called,
    intercept::{self, Interceptor},
    layer::delegate_transport,
    test_state::ProceduresInFlight,
};

#[derive(Debug)]
pub(super) struct Calls {
    pub(super) inner: Arc<dyn RpcTransport>,
    pub(super) spy: Spy,
}

delegate_transport!(Calls);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RpcTransport for Calls {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        let state = &self.spy.state;
        let answer = state.mocks.answer(&call.api, &call.procedure, &call.fields);
        let called = Called::new(&call, answer.is_some());
        if !self.spy.outside {
            state.record.called(called.clone());
        }
        let Some(answer) = answer else { return self.inner.call(call).await };
        let body = answer.give(called).await?;
        let result = ResultMessage {
            id: format!("mock-{}", call.id).into(),
            rpc_id: call.id,
            headers: Headers::new(),
            body,
        };
        state.reply(&call.return_path, result).await
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let (apis, flow) = (spec.apis.clone(), spec.flow);
        let subscription = self.inner.serve(spec).await?;
        let running = ProceduresInFlight::new(&self.spy.state, apis);
        Ok(intercept::calls(subscription, Arc::clone(&self.inner), flow, running))
    }

    async fn backlog(&self, api: &str) -> Result<u64> {
        self.inner.backlog(api).await
    }
}

impl Interceptor<RpcMessage> for ProceduresInFlight {
    fn arrived(&self, call: Arc<RpcMessage>) -> Arc<RpcMessage> {
        self.begin(&call);
        call
    }

    fn settled(&self, call: &RpcMessage, _: &Outcome) {
        self.end(call);
    }
}
