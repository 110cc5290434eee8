//! The API that is soaked.

use serde::{Deserialize, Serialize};

/// Work for the listener, and sums for the worker.
#[lightbus::api(name = "soak", events(Work))]
pub(crate) trait Soak {
    /// Doubles a number.
    async fn double(&self, number: u64) -> u64;
}

/// Something to be done.
#[derive(Debug, Clone, lightbus::Event)]
#[event(key = "key")]
pub(crate) struct Work {
    /// Counted from 0.
    pub(crate) number: u64,
    /// Of so many different keys.
    pub(crate) key: String,
    /// What it takes.
    pub(crate) kind: Kind,
}

/// What the handling of an event takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, lightbus::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(crate = "lightbus::schemars")]
pub(crate) enum Kind {
    /// Nothing.
    Instant,
    /// 50 ms.
    Quick,
    /// A second.
    Slow,
    /// Its process ends.
    Poison,
}

/// The service that listens and works.
pub(crate) const SERVICE: &str = "soak";
/// Its listener.
pub(crate) const LISTENER: &str = "work";
