//! The events that this process has in its hands: not to be taken again, and kept from others.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::entry::EntryId;

/// What the subscriptions of a transport hold, by group and stream.
#[derive(Default)]
pub(super) struct InFlightSets {
    sets: Mutex<HashMap<(String, String), Weak<Set>>>,
    owners: AtomicU64,
}

type Set = Mutex<HashMap<EntryId, Hold>>;

struct Hold {
    owner: u64,
    /// When Redis was last told that it is held.
    refreshed: Instant,
}

impl InFlightSets {
    /// A number for a subscription.
    pub(super) fn owner(&self) -> u64 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// What is held of this stream for this group.
    pub(super) fn of(&self, group: &str, stream: &str, owner: u64) -> InFlight {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|_, set| set.strong_count() > 0);
        let key = (group.to_owned(), stream.to_owned());
        let set = sets.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        sets.insert(key, Arc::downgrade(&set));
        InFlight { set, owner }
    }
}

/// What is held of a stream for a group, seen by one subscription.
pub(super) struct InFlight {
    set: Arc<Set>,
    owner: u64,
}

impl InFlight {
    /// Holds an entry. `false` if it is held already, by whomever in this process.
    pub(super) fn take(&self, id: EntryId, now: Instant) -> bool {
        let mut set = self.set();
        if set.contains_key(&id) {
            return false;
        }
        set.insert(id, Hold { owner: self.owner, refreshed: now });
        true
    }

    pub(super) fn release(&self, ids: impl IntoIterator<Item = EntryId>) {
        let mut set = self.set();
        for id in ids {
            set.remove(&id);
        }
    }

    /// What this subscription holds and Redis was not told of since, oldest first.
    pub(super) fn stale(&self, since: Instant) -> Vec<EntryId> {
        let mut ids: Vec<EntryId> = self
            .set()
            .iter()
            .filter(|(_, hold)| hold.owner == self.owner && hold.refreshed <= since)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Redis was told.
    pub(super) fn refreshed(&self, ids: &[EntryId], now: Instant) {
        let mut set = self.set();
        for id in ids {
            if let Some(hold) = set.get_mut(id) {
                hold.refreshed = now;
            }
        }
    }

    fn set(&self) -> MutexGuard<'_, HashMap<EntryId, Hold>> {
        // Nothing panics while it is locked.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let owner = self.owner;
        self.set().retain(|_, hold| hold.owner != owner);
    }
}
