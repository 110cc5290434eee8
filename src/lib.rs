//! A message bus for Rust services.
//!
//! A service describes its API once, as procedures and events. Other services call it and listen to
//! it as if it were local code. The broker that carries the messages (Redis, RabbitMQ or Kafka; none
//! in a test) is a line of configuration, and does not appear in service code. On Redis, lightbus
//! speaks the protocol of Python's Lightbus: services in both languages share one bus.
//!
//! ```
//! use lightbus::prelude::*;
//!
//! /// The contract.
//! #[lightbus::api(name = "auth", events(UserRegistered))]
//! pub trait Auth {
//!     /// Returns whether this is the user's password.
//!     async fn check_password(&self, username: String, password: String) -> bool;
//! }
//!
//! /// A user has signed up.
//! #[derive(lightbus::Event)]
//! pub struct UserRegistered {
//!     pub username: String,
//!     pub email: String,
//! }
//!
//! struct Service;
//!
//! impl Auth for Service {
//!     async fn check_password(&self, username: String, password: String) -> bool {
//!         username == "admin" && password == "secret"
//!     }
//! }
//!
//! # #[tokio::main]
//! # async fn main() -> lightbus::Result<()> {
//! let bus = Bus::in_memory().await?;
//! bus.serve(AuthApi(Service)).await?;
//!
//! let auth = AuthClient::new(&bus);
//! assert!(auth.check_password("admin", "secret").await?);
//! # bus.close().await
//! # }
//! ```
//!
//! - [`Bus`]: calling, serving, firing, listening, running. [`Admin`]: operating it.
//! - [`api`] and [`Event`]: contracts.
//! - [`config`]: which transport carries what.
//! - [`transport`]: the compiled-in transports, and what is needed to write one.
//! - [`plugins`]: code that sees and changes the messages of a process.
//! - [`blocking`]: the bus for code without async.
//! - `testing` (a feature): tests of services, without a broker and without waiting.
#![cfg_attr(docsrs, feature(doc_cfg))]
// `Instant + Duration` panics where the sum has no representation: `time::after` saturates.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod blocking;
mod bus;
pub mod config;
pub mod contract;
pub mod plugins;
pub mod schema;
pub mod sensitive;
#[cfg(feature = "testing")]
#[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
pub mod testing;

// All that is public at the root, each item under one path.
pub use async_trait::async_trait;
pub use bus::{
    Admin, Bus, BusBuilder, Call, CallFailure, Client, Features, Fired, FromEvent, HandlerError,
    HandlerResult, Listen, OnError, Received, RetryPolicy, Serve, Task,
};
pub use lightbus_core::{
    Args, Arguments, Error, ErrorKind, EventMessage, Headers, Name, Registry, RemoteError, Result,
    ResultMessage, Retry, RpcMessage,
    transport::{DeadLetter, EventSelector, Lag, Start},
};
#[cfg(feature = "macros")]
pub use lightbus_macros::{ApiError, Event, api};
pub use schemars::{self, JsonSchema};
pub use sensitive::Sensitive;

/// What [`Admin`] returns.
pub mod admin {
    pub use crate::bus::{Diagnosis, FireOnBehalf, HandledDeadLetters, Route};
    pub use lightbus_core::transport::{Consumer, Finding, Group, GroupSpec, Location, Severity};
}

/// What [`Bus::health`] returns.
pub mod health {
    pub use crate::bus::{Condition, Health, Life, PartHealth, PartKind};
}

/// What tower layers wrap.
#[cfg(feature = "tower")]
#[cfg_attr(docsrs, doc(cfg(feature = "tower")))]
pub mod layers {
    pub use crate::bus::{Handling, Procedures};
}

/// The compiled-in transports, and what a program needs to choose among transports. To write one,
/// depend on `lightbus-core`, which these items are from.
pub mod transport {
    pub use lightbus_core::{
        Capabilities, ConfigSection, Transport, TransportFactory, TransportKind,
        transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport},
    };

    #[cfg(feature = "amqp")]
    pub use lightbus_transport_amqp as amqp;
    #[cfg(feature = "kafka")]
    pub use lightbus_transport_kafka as kafka;
    #[cfg(feature = "memory")]
    pub use lightbus_transport_memory as memory;
    #[cfg(feature = "redis")]
    pub use lightbus_transport_redis as redis;
}

/// The items that almost every program needs.
pub mod prelude {
    pub use crate::{
        Bus, Client as _, HandlerError, HandlerResult, OnError, Received, Start, args,
        contract::Event as _,
    };
}

/// All that [`registry`] may have, by the names of their cargo features.
pub(crate) const TRANSPORTS: [&str; 4] = ["memory", "redis", "amqp", "kafka"];

/// Returns the compiled-in transports. Add others with [`Registry::with`].
#[must_use]
pub fn registry() -> Registry {
    let registry = Registry::new();
    #[cfg(feature = "memory")]
    let registry = registry.with(lightbus_transport_memory::MemoryFactory::default());
    #[cfg(feature = "redis")]
    let registry = registry.with(lightbus_transport_redis::RedisFactory::default());
    #[cfg(feature = "amqp")]
    let registry = registry.with(lightbus_transport_amqp::AmqpFactory::default());
    #[cfg(feature = "kafka")]
    let registry = registry.with(lightbus_transport_kafka::KafkaFactory::default());
    registry
}

/// Creates the arguments of an untyped call or event: `args! { username: "admin", tries: 3 }`. Values
/// may be of any type that serde can serialise.
#[macro_export]
macro_rules! args {
    ($($name:ident : $value:expr),* $(,)?) => {
        $crate::Args::new()$(.with(stringify!($name).trim_start_matches("r#"), &$value))*
    };
}

#[doc(hidden)]
pub mod __private;

/// The code in the guide compiles, and runs where it can.
#[cfg(all(
    doctest,
    feature = "macros",
    feature = "redis",
    feature = "validation",
    feature = "yaml"
))]
mod guide {
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../docs/configuration.md")]
    struct Configuration;
    #[doc = include_str!("../docs/calls.md")]
    struct Calls;
    #[doc = include_str!("../docs/events.md")]
    struct Events;
    #[doc = include_str!("../docs/schema.md")]
    struct Schemas;
    #[doc = include_str!("../docs/running.md")]
    struct Running;
    #[doc = include_str!("../docs/plugins.md")]
    struct Plugins;
    #[doc = include_str!("../docs/limits.md")]
    struct Limits;
    #[doc = include_str!("../docs/guarantees.md")]
    struct Guarantees;
}
