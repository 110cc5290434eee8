//! A complete transport from what every broker can do: publish, fetch, settle, and keep values by key.
//!
//! Implement [`Broker`] and [`Consumer`] over your broker's client. [`Factory<YourBroker>`](Factory) then
//! makes the four transports from the configuration: with a wire form, deadlines, answers to calls that
//! cannot be read, dead letters that can be listed, removed and requeued, leases that are renewed, one
//! subscription over several APIs, time limits, and closing. They pass the conformance suite if the
//! broker does what the two traits say. `examples/custom_transport` in the repository is such a
//! transport, and `docs/write-a-transport.md` the guide.
//!
//! # How the bus is laid out on the broker
//!
//! | of the bus | at the broker |
//! | --- | --- |
//! | calls of an API | channel `calls.{api}`, read by the one group `workers`; acknowledged before they are handed out |
//! | results of a process | channel `results.{random}`, which its return paths name |
//! | events of an API | channel `events.{api}`, read by a group for each listener, `{service}-{listener}` |
//! | dead letters of a group | store `dead-letters.{group}`, without a time to live |
//! | a dead letter that is requeued | an event of its channel that names the group, which all other groups skip |
//! | schemas | store `schemas`, by API, with a time to live |
//!
//! Names of APIs, groups and processes, and keys, arrive as [`safe_name`]s. Messages are JSON in the
//! [wire form](wire).
//!
//! # What a broker may lack
//!
//! | lacks | default |
//! | --- | --- |
//! | a name for each consumer | ignore [`ConsumerSpec::process`], and do not declare `resumes`: what a dead process held is redelivered when its lease ends |
//! | delivery counts | [`Received::attempt`] is 0: "not counted" |
//! | the time of a message | [`Received::time`] is `None`; do not declare `replay` and `history` |
//! | its age | [`Received::age`] is `None`: deadlines go by the clocks of caller and worker |
//! | messages that expire | ignore [`Message::ttl`]: expired calls are fetched and dropped |
//! | order by key | ignore [`Message::key`]; declare `ordered` if a channel is in order, else do not |
//! | leases | [`Broker::lease`] is `None`, if the broker sees that a member is gone |
//! | giving back | [`Consumer::release`] ends the lease early; where even that cannot be done, it returns `Ok` and the message is redelivered when the lease ends |
//! | extending a time to live | [`Broker::renew`] reads and stores again |
//! | values by key | another store beside it: a table, an object store |
//! | lag, history, forgetting, groups that can be looked up | the default methods: `Unsupported`, or `Ok(true)` for [`Broker::has_group`] |
//!
//! # What it costs
//!
//! Each call is published alone; a client that pipelines sends them together. A listener receives all
//! events of its APIs and acknowledges what it did not ask for. A subscription to several APIs fetches
//! from each at the same time ([`Merge`](crate::Merge)). Listing dead letters reads all keys of the
//! group. A transport for which this is too much implements the [four traits](crate::transport) itself.

mod consume;
mod contract;
mod event;
mod factory;
mod message;
mod result;
mod rpc;
mod safe_name;
mod schema;
mod shared;
pub mod wire;

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
};

pub use contract::{Broker, Consumer};
pub use event::BrokerEventTransport;
pub use factory::Factory;
pub use message::{Channel, ChannelKind, ConsumerSpec, Message, Received, Store};
pub use result::BrokerResultTransport;
pub use rpc::BrokerRpcTransport;
pub use safe_name::{from_safe_name, safe_name};
pub use schema::BrokerSchemaTransport;

use crate::Name;

/// A number that no other process has, as far as chance can tell. Each hasher has random keys.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A name of 32 hexadecimal digits that no other process has.
fn unique() -> Name {
    format!("{:016x}{:016x}", random(), random()).into()
}

/// What is the same for all four kinds.
macro_rules! transport {
    ($type:ident) => {
        #[async_trait::async_trait]
        impl<B: Broker> $crate::Transport for $type<B> {
            fn name(&self) -> &'static str {
                B::NAME
            }

            fn broker(&self) -> String {
                self.handle.shared().broker.address()
            }

            fn capabilities(&self) -> $crate::Capabilities {
                let mut capabilities = self.handle.shared().broker.capabilities();
                capabilities.dead_letters = true;
                capabilities
            }

            async fn open(&self) -> $crate::Result<()> {
                self.handle.open().await
            }

            async fn close(&self) -> $crate::Result<()> {
                self.shut().await;
                Ok(())
            }
        }

        impl<B: Broker> std::fmt::Debug for $type<B> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let address = self.handle.shared().broker.address();
                f.debug_struct(stringify!($type)).field("broker", &address).finish_non_exhaustive()
            }
        }
    };
}
use transport;
