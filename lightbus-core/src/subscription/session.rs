//! What a delivery depends on: a channel, an assignment of a partition.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The top bit of the state: the broker has taken everything back.
const REVOKED: u64 = 1 << 63;

/// The session on the broker to which deliveries belong, such as a RabbitMQ channel or the
/// assignment of a Kafka partition. When it ends, the broker redelivers what was not settled; what
/// the consumer has not begun by then must not be handled here as well.
///
/// Beginning and revoking race. One atomic word decides: a delivery begins either before
/// [`revoke`](Self::revoke), and then counts among those [at work](Self::at_work), or not at all.
///
/// Cheap to clone; all clones are the same session.
#[derive(Clone, Default)]
pub struct Session(Arc<AtomicU64>);

/// Counts a delivery as at work until it is dropped.
pub(super) struct AtWork(Session);

impl Session {
    /// A session that lives.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends it: from now on no delivery of it begins. Ending it twice is fine.
    pub fn revoke(&self) {
        self.0.fetch_or(REVOKED, Ordering::SeqCst);
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        self.0.load(Ordering::SeqCst) & REVOKED != 0
    }

    /// How many deliveries of it have begun, are not settled, and do not wait for another try
    /// ([`hold_back`](crate::AckHandle::hold_back)). After [`revoke`](Self::revoke) the
    /// number only falls.
    #[must_use]
    pub fn at_work(&self) -> u64 {
        self.0.load(Ordering::SeqCst) & !REVOKED
    }

    /// Begins a delivery, unless the session has ended.
    pub(super) fn begin(&self) -> Option<AtWork> {
        let before = self.0.fetch_add(1, Ordering::SeqCst);
        let at_work = AtWork(self.clone());
        (before & REVOKED == 0).then_some(at_work)
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("at_work", &self.at_work())
            .field("revoked", &self.is_revoked())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_counts_until_it_ends_and_nothing_begins_after_the_end() {
        let session = Session::new();
        let first = session.begin();
        assert!(first.is_some());
        session.revoke();
        assert!(session.begin().is_none());
        assert_eq!(session.at_work(), 1);
        drop(first);
        assert_eq!(session.at_work(), 0);
        assert!(session.is_revoked());
    }
}
