//! The bus: calling, serving, firing, listening, running.
//!
//! Divided by what flows through it: `calls`, `events`, the lifetime of a `process`, and operation by
//! people and tools, `admin`. `shared` is the state that all of them use; it imports none of them.
//! `calls`, `events` and `process` do not import each other: workers, listeners and tasks are known to
//! the rest through `shared` alone. `admin` may import all three. `builder` assembles a bus, and is
//! the only one that knows plugins.

mod admin;
mod builder;
mod calls;
mod contracts;
mod events;
mod process;
mod shared;

use lightbus_core::{Error, ErrorKind, Result};

pub use admin::{Admin, Diagnosis, FireOnBehalf, HandledDeadLetters, Route};
pub use builder::BusBuilder;
#[cfg(feature = "tower")]
pub use calls::Procedures;
pub use calls::{Call, CallFailure, Client, Serve};
#[cfg(feature = "tower")]
pub use events::Handling;
pub use events::{Fired, FromEvent, Listen, OnError, Received, RetryPolicy};
pub use process::{Health, Life, Task};
pub use shared::{Bus, Condition, Features, HandlerError, HandlerResult, PartHealth, PartKind};

#[cfg(feature = "testing")]
pub(crate) use shared::TestProbe;
pub(crate) use shared::{Inner, PluginChain};

use crate::config::Config;

impl Bus {
    /// Connects a bus with the configuration that `LIGHTBUS_CONFIG` names. Without the variable, the
    /// bus is in memory.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the configuration is invalid;
    /// [`Unavailable`](ErrorKind::Unavailable) if its broker does not answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, connections that were made are closed.
    pub async fn from_env() -> Result<Self> {
        Self::builder().connect().await
    }

    /// Creates a bus that exists only in this process, for tests and first steps.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the cargo feature `memory` is off.
    pub async fn in_memory() -> Result<Self> {
        Self::builder().config(Config::default()).connect().await
    }

    /// Returns a builder, for a bus that is configured by the program.
    pub fn builder() -> BusBuilder {
        BusBuilder::new()
    }

    /// Returns the name of the service that this process belongs to.
    #[must_use]
    pub fn service_name(&self) -> &str {
        &self.inner.names.service
    }

    /// Returns the name of this process within its service.
    #[must_use]
    pub fn process_name(&self) -> &str {
        &self.inner.names.process
    }

    /// Checks that every configured transport reaches other processes, for programs that make no sense
    /// alone.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config), with how to choose a transport, if one does not.
    pub fn require_shared(&self) -> Result<()> {
        let Some(name) = self.inner.apis.unshared() else {
            return Ok(());
        };
        let error = Error::new(
            ErrorKind::Config,
            format!(
                "the transport `{name}` cannot reach another process, and this program needs one"
            ),
        )
        .with("config", self.inner.config.origin());
        Err(error.hint(
            "Choose a transport in a configuration file and name it: LIGHTBUS_CONFIG=examples/redis.yaml",
        ))
    }
}
