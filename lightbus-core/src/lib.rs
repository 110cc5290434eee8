//! What a transport for lightbus is written against.
//!
//! lightbus describes an API once, as procedures and events; what carries its messages is a
//! *transport*, selected in the configuration. This crate is for those who write transports:
//! services use the crate `lightbus`.
//!
//! A transport implements four small traits, [`RpcTransport`](transport::RpcTransport),
//! [`ResultTransport`](transport::ResultTransport), [`EventTransport`](transport::EventTransport) and
//! [`SchemaTransport`](transport::SchemaTransport), and a [`TransportFactory`] that makes them from
//! a [`ConfigSection`] of the configuration. To be consumed from, it writes a [`Source`]: how to fetch
//! messages and how to settle them. [`Subscription::spawn`] adds what is hard: credit,
//! cancellation, coalesced acknowledgement, reconnecting, giving back. [`PendingResults`] matches
//! results to calls. The suite in `conformance` (a feature) proves the whole.
//!
//! [`broker`] has all four traits implemented over a broker that can publish, fetch, settle and keep
//! values by key: the short way to a transport.
//!
//! What this crate does not know: any broker, any file format, and the bus.
#![cfg_attr(docsrs, feature(doc_cfg))]
// `Instant + Duration` panics where the sum has no representation: `time::after` saturates.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod broker;
pub mod codec;
pub mod config_types;
#[cfg(feature = "conformance")]
#[allow(clippy::arithmetic_side_effects, reason = "tests: their times are their own")]
pub mod conformance;
mod error;
pub mod json;
mod message;
pub mod name;
mod pending;
mod registry;
mod shared_client;
mod subscription;
pub mod time;
pub mod transport;
mod upkeep;

pub use codec::Args;
pub use error::{Error, ErrorKind, Result, Retry, nearest};
pub use message::{
    Arguments, EventMessage, Headers, Name, RemoteError, ResultMessage, ReturnPath, RpcMessage,
};
pub use pending::{PendingResult, PendingResults, Receives, ResultReceiver};
pub use registry::{ConfigSection, Registry, TransportFactory, TransportKind};
pub use shared_client::{Closing, Handle, SharedClient, User, Users};
pub use subscription::{
    AckHandle, Backoff, Connectivity, Delivery, Merge, Outcome, Rejection, Room, Session, Source,
    Subscription,
};
pub use transport::{Capabilities, FlowControl, Transport};
pub use upkeep::{Upkeep, catch_panic};

/// For [`impl_transport!`] alone.
#[doc(hidden)]
pub mod __private {
    pub use async_trait::async_trait;
}
