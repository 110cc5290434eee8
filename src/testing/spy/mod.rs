//! The topmost layer: sees everything that the processes of a test send and receive, and answers mocked
//! calls.

mod event;
mod rpc;
mod schema;

use std::sync::Arc;

use lightbus_core::transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport};

use super::{layer::Layer, test_state::TestState};

/// The layer for one process of a test.
#[derive(Clone, Debug)]
pub(super) struct Spy {
    pub(super) state: Arc<TestState>,
    /// Whether what the process sends counts as sent by the test itself: neither recorded nor refused.
    pub(super) outside: bool,
}

impl Layer for Spy {
    fn rpc(&self, inner: Arc<dyn RpcTransport>) -> Arc<dyn RpcTransport> {
        Arc::new(rpc::Calls { inner, spy: self.clone() })
    }

    fn result(&self, inner: Arc<dyn ResultTransport>) -> Arc<dyn ResultTransport> {
        self.state.add_results(Arc::clone(&inner));
        inner
    }

    fn event(&self, inner: Arc<dyn EventTransport>) -> Arc<dyn EventTransport> {
        Arc::new(event::Events { inner, spy: self.clone() })
    }

    fn schema(&self, inner: Arc<dyn SchemaTransport>) -> Arc<dyn SchemaTransport> {
        Arc::new(schema::Schemas { inner, spy: self.clone() })
    }
}
