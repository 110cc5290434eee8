//! The bus: calling, serving, firing, listening, running.
//!
//! In rooms, by what flows through it: `calls`, `events`, the life of a `process`, and what operators
//! and tools do (`admin`). All stand on `shared`, the state of a process, which imports none of them;
//! `calls` and `events` import neither each other nor a room above them; `process` imports neither of
//! the two, and sees workers, listeners and tasks through `shared` alone; `admin` may import all.
//! `builder` puts a process together, and is the only one that knows plugins.

mod admin;
mod builder;
mod calls;
mod contracts;
mod events;
mod process;
mod shared;

use lightbus_core::{Error, ErrorKind, Result};

pub use admin::{Admin, Diagnosis, HandledDeadLetters, Route};
pub use builder::BusBuilder;
#[cfg(feature = "tower")]
pub use calls::Procedures;
pub use calls::{Call, Client, Failure, Serve};
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
    /// A bus with the configuration that `LIGHTBUS_CONFIG` names, or in memory without one.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the configuration is wrong;
    /// [`Unavailable`](ErrorKind::Unavailable) if a broker that it names does not answer.
    pub async fn from_env() -> Result<Self> {
        Self::builder().connect().await
    }

    /// A bus of its own that stays in this process: for tests and first steps.
    ///
    /// # Errors
    ///
    /// Only if the feature `memory` is off.
    pub async fn in_memory() -> Result<Self> {
        Self::builder().config(Config::default()).connect().await
    }

    /// A bus that is configured by the program.
    pub fn builder() -> BusBuilder {
        BusBuilder::new()
    }

    /// Under which name of a service this process is on the bus.
    #[must_use]
    pub fn service_name(&self) -> &str {
        &self.inner.names.service
    }

    /// The name of this process within its service.
    #[must_use]
    pub fn process_name(&self) -> &str {
        &self.inner.names.process
    }

    /// Fails unless every transport of the configuration reaches other processes: for programs that
    /// make no sense alone.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) that says how to choose a transport.
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
