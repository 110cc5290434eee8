//! What a process gets done, and whether it does.

use serde::Serialize;

use crate::bus::shared::{Bus, Condition, PartHealth, Phase};

/// How a process is: what each of its consumers and tasks gets done.
///
/// Serialised, it is the answer of a health check: `healthy` and everything it comes from.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Whether the process works: it is neither stopping nor closed, and no consumer of it is
    /// interrupted, restarting or stalled.
    pub healthy: bool,
    /// How far the process has come in its life.
    pub life: Life,
    /// Its workers, listeners and tasks, in the order in which they began.
    pub parts: Vec<PartHealth>,
}

/// How far a process has come in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Life {
    /// At work.
    Running,
    /// Nothing new is taken; what runs may finish.
    Stopping,
    /// All is closed.
    Closed,
}

impl Bus {
    /// How this process is: what its workers, listeners and tasks get done. It asks no broker and
    /// waits for nothing; call it as often as you like.
    ///
    /// Health means progress, not an open connection: a consumer that is connected, has work and takes
    /// none for a minute counts as stalled, and is begun anew: where the transport can tell how far it
    /// is behind.
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # async fn example(bus: &Bus) -> serde_json::Result<String> {
    /// let health = bus.health();
    /// let status = if health.healthy { 200 } else { 503 };
    /// # let _ = status;
    /// serde_json::to_string(&health)
    /// # }
    /// ```
    #[must_use]
    pub fn health(&self) -> Health {
        let inner = self.inner();
        let life = match *inner.watch().borrow() {
            Phase::Running => Life::Running,
            Phase::Stopping | Phase::Draining | Phase::CutOff => Life::Stopping,
            Phase::Closed => Life::Closed,
        };
        let parts: Vec<_> = inner.state().progress.iter().map(|part| part.health()).collect();
        let works = |part: &PartHealth| {
            matches!(part.condition, Condition::Idle | Condition::Busy | Condition::Failed)
        };
        Health { healthy: life == Life::Running && parts.iter().all(works), life, parts }
    }
}
