//! The memory transport passes the suite.

use std::time::Duration;

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, ConfigSection, Name, ReturnPath, RpcMessage, TransportFactory,
    conformance::{Able, Breakable, Harness, Transports},
};
use lightbus_transport_memory::MemoryFactory;

lightbus_core::conformance!(Memory(MemoryFactory::default()));

struct Memory(MemoryFactory);

const TYPED: &str = "messages are not written to a wire: there is nothing that cannot be read";
const NO_BROKER: &str = "there is no broker outside the process, and no connection";

#[async_trait]
impl Harness for Memory {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.ordered = true;
        capabilities.replay = true;
        capabilities.history = true;
        capabilities.lag = true;
        capabilities.backlog = true;
        capabilities.dead_letters = true;
        capabilities.resumes = true;
        capabilities
    }

    async fn connect(&self) -> Transports {
        let section = ConfigSection::empty("test");
        Transports {
            rpc: self.0.rpc(&section).expect("the transport"),
            result: self.0.result(&section).expect("the transport"),
            event: self.0.event(&section).expect("the transport"),
            schema: self.0.schema(&section).expect("the transport"),
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
