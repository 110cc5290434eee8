//! The broker, which lives in this process: what the transports of one factory share.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use lightbus_core::{Result, SharedClient, Users};
use tokio::time::Instant;

use crate::{event, result, rpc, schema};

/// Everything that the broker keeps, by kind. Each kind has locks of its own; none is held while
/// waiting.
#[derive(Default)]
pub(crate) struct Broker {
    pub(crate) calls: rpc::Queues,
    pub(crate) results: result::Callers,
    pub(crate) events: event::Events,
    pub(crate) schemas: schema::Schemas,
    pub(crate) clock: Clock,
    users: Users,
}

pub(crate) type Handle = lightbus_core::Handle<Broker>;

impl SharedClient for Broker {
    const NAME: &'static str = crate::NAME;
    const BROKER: &'static str = "the broker in memory";

    fn address(&self) -> String {
        "this process".to_owned()
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    fn users(&self) -> &Users {
        &self.users
    }

    /// There is no connection; messages stay for transports that are made later.
    fn release(&self) {}
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").finish_non_exhaustive()
    }
}

/// Tells the time of day by tokio's clock, so that it stands still when a test pauses that.
pub(crate) struct Clock {
    began: SystemTime,
    instant: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { began: SystemTime::now(), instant: Instant::now() }
    }
}

impl Clock {
    pub(crate) fn now(&self) -> SystemTime {
        self.began.checked_add(self.instant.elapsed()).unwrap_or(self.began)
    }
}

/// Locks. Nothing panics under a lock of this crate, and what it guards is whole after any panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
