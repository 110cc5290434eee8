//! The layers keep every promise of the wrapped transport: together they pass its conformance suite.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, ConfigSection, Name, Registry, ReturnPath, RpcMessage,
    conformance::{Able, Breakable, Harness, Transports},
};

use super::{
    Faults,
    isolate::Isolate,
    layer::{all_in_memory, over},
    record::KEEP,
    spy::Spy,
    test_state::{Policy, TestState},
};

/// Layers without faults.
mod nothing_wrong {
    lightbus_core::conformance!(super::Layered::over_memory(super::Faults::seeded(1)));
}

/// Layers with the faults that no promise forbids: delays, reordering between streams.
mod wrong_within_promises {
    lightbus_core::conformance!(super::Layered::over_memory(
        super::Faults::seeded(1)
            .delays(0.2)
            .reorders(0.2)
            .longest_delay(std::time::Duration::from_millis(20))
    ));
}

struct Layered(Registry);

const TYPED: &str = "messages are not written to a wire, so none can be malformed";
const NO_BROKER: &str = "there is no broker outside the process, and no connection";

impl Layered {
    fn over_memory(faults: Faults) -> Self {
        let isolated = over(&all_in_memory(), &Isolate::fresh());
        let state = Arc::new(TestState::new(KEEP, Policy::Everything));
        Self(over(&faults.around(&isolated), &Spy { state, outside: false }))
    }
}

#[async_trait]
impl Harness for Layered {
    fn capabilities(&self) -> Capabilities {
        let section = ConfigSection::empty("test");
        let memory = self.0.get("memory").and_then(|memory| memory.event(&section));
        memory.expect("memory").capabilities()
    }

    async fn connect(&self) -> Transports {
        let section = ConfigSection::empty("test");
        let memory = self.0.get("memory").expect("memory");
        Transports {
            rpc: memory.rpc(&section).expect("the transport"),
            result: memory.result(&section).expect("the transport"),
            event: memory.event(&section).expect("the transport"),
            schema: memory.schema(&section).expect("the transport"),
        }
    }

    fn taken_over_after(&self) -> Duration {
        Duration::ZERO
    }

    async fn nowhere(&self, _password: &str) -> Able<Transports> {
        Able::NotApplicable(NO_BROKER)
    }

    async fn malformed_call(&self, _api: &str) -> Able {
        Able::NotApplicable(TYPED)
    }

    async fn misdirected_call(&self, _as_of: &str, _call: &RpcMessage) -> Able {
        Able::NotApplicable(TYPED)
    }

    async fn malformed_result(&self, _to: &ReturnPath, _call: &Name) -> Able {
        Able::NotApplicable(TYPED)
    }

    async fn malformed_event(&self, _api: &str, _event: &str) -> Able {
        Able::NotApplicable(TYPED)
    }

    async fn malformed_schema(&self, _api: &str) -> Able {
        Able::NotApplicable(TYPED)
    }

    async fn own_broker(&self) -> Able<Box<dyn Breakable>> {
        Able::NotApplicable(NO_BROKER)
    }
}
