//! The way to the broker, which here is the broker itself: what the transports of one factory share.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use lightbus_core::{Error, Result};
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};

use crate::{event, result, rpc, schema};

/// A handle on a broker inside this process. Clones are handles on the same one.
#[derive(Clone, Default)]
pub(crate) struct Client(Arc<Broker>);

/// Everything that a broker keeps, by kind. Each kind has locks of its own, and none is held while
/// waiting.
#[derive(Default)]
pub(crate) struct Broker {
    pub(crate) calls: rpc::Queues,
    pub(crate) results: result::Callers,
    pub(crate) events: event::Events,
    pub(crate) schemas: schema::Schemas,
    pub(crate) clock: Clock,
}

impl std::ops::Deref for Client {
    type Target = Broker;

    fn deref(&self) -> &Broker {
        &self.0
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
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
        self.began + self.instant.elapsed()
    }
}

/// When something ends that lives for `ttl` from now. What never ends in practice ends in a century.
pub(crate) fn expiry(ttl: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now() + ttl.min(CENTURY)
}

/// Whether a transport is open, and the bell that tells its subscriptions when it closes.
#[derive(Default)]
pub(crate) struct Open {
    what: &'static str,
    closed: AtomicBool,
    bell: Notify,
}

impl Open {
    pub(crate) fn new(what: &'static str) -> Arc<Self> {
        Arc::new(Self { what, ..Self::default() })
    }

    /// Refuses what is tried after closing.
    pub(crate) fn check(&self, operation: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed(self.what).during(operation));
        }
        Ok(())
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.bell.notify_waiters();
    }

    /// Ends when the transport closes. To be made before [`check`](Self::check), so that closing in
    /// between is seen.
    pub(crate) fn closing(&self) -> Notified<'_> {
        self.bell.notified()
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&!self.closed.load(Ordering::Relaxed), f)
    }
}

/// Locks. Nothing panics under a lock of this crate, and what it guards is whole after any panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
