//! The health of a process.

use serde::Serialize;

use crate::bus::shared::{Bus, Condition, PartHealth, Phase};

/// The health of a process: the state of each of its workers, listeners and tasks.
///
/// Serialise it for the response of a health check.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Whether the process works: it is neither stopping nor closed, and no part of it is interrupted,
    /// restarting or stalled.
    pub healthy: bool,
    /// Whether the process is running or shutting down.
    pub life: Life,
    /// Its workers, listeners and tasks, in the order in which they were started.
    pub parts: Vec<PartHealth>,
}

/// The stages of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Life {
    /// Working.
    Running,
    /// Shutting down: nothing new is taken, handlers may finish.
    Stopping,
    /// Closed.
    Closed,
}

impl Bus {
    /// Returns the health of this process. It neither contacts a broker nor blocks, so it may be called
    /// often.
    ///
    /// Health means progress, not an open connection. A listener that is connected, has a backlog and
    /// takes nothing for a minute counts as stalled and is restarted, if the transport can report lag.
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
        let parts: Vec<_> = {
            let state = inner.state();
            let internal = state.internal.iter().filter(|part| part.has_restarted());
            state.progress.iter().chain(internal).map(|part| part.health()).collect()
        };
        let works = |part: &PartHealth| {
            use Condition::{Busy, Failed, Idle, Paused};
            matches!(part.condition, Idle | Busy | Failed | Paused)
        };
        Health { healthy: life == Life::Running && parts.iter().all(works), life, parts }
    }
}
