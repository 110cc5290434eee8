//! The events in flight in this process: not to be taken again, and to be kept from other processes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::entry::EntryId;

/// The events in flight of all subscriptions of a transport, by group and stream.
#[derive(Default)]
pub(super) struct InFlightSets {
    sets: Mutex<HashMap<(String, String), Weak<Set>>>,
    owners: AtomicU64,
}

type Set = Mutex<HashMap<EntryId, Lease>>;

struct Lease {
    owner: u64,
    /// When it was last renewed in Redis.
    renewed: Instant,
}

impl InFlightSets {
    /// Returns a number for a subscription.
    pub(super) fn owner(&self) -> u64 {
        self.owners.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the events of this stream in flight for this group, as one subscription sees them.
    pub(super) fn of(&self, group: &str, stream: &str, owner: u64) -> InFlight {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        sets.retain(|_, set| set.strong_count() > 0);
        let key = (group.to_owned(), stream.to_owned());
        let set = sets.get(&key).and_then(Weak::upgrade).unwrap_or_default();
        sets.insert(key, Arc::downgrade(&set));
        InFlight { set, owner }
    }
}

/// The events of a stream in flight for a group, as one subscription sees them.
pub(super) struct InFlight {
    set: Arc<Set>,
    owner: u64,
}

impl InFlight {
    /// Adds an entry. Returns `false` if it is in flight already, in any subscription of this process.
    pub(super) fn insert(&self, id: EntryId, now: Instant) -> bool {
        let mut set = self.set();
        if set.contains_key(&id) {
            return false;
        }
        set.insert(id, Lease { owner: self.owner, renewed: now });
        true
    }

    /// Whether an entry is in flight, in any subscription of this process.
    pub(super) fn contains(&self, id: EntryId) -> bool {
        self.set().contains_key(&id)
    }

    pub(super) fn remove(&self, ids: impl IntoIterator<Item = EntryId>) {
        let mut set = self.set();
        for id in ids {
            set.remove(&id);
        }
    }

    /// Returns the entries of this subscription that were not renewed since, oldest first.
    pub(super) fn due(&self, since: Instant) -> Vec<EntryId> {
        let mut ids: Vec<EntryId> = self
            .set()
            .iter()
            .filter(|(_, lease)| lease.owner == self.owner && lease.renewed <= since)
            .map(|(id, _)| *id)
            .collect();
        ids.sort_unstable();
        ids
    }

    /// Notes that entries were renewed.
    pub(super) fn renewed(&self, ids: &[EntryId], now: Instant) {
        let mut set = self.set();
        for id in ids {
            if let Some(lease) = set.get_mut(id) {
                lease.renewed = now;
            }
        }
    }

    fn set(&self) -> MutexGuard<'_, HashMap<EntryId, Lease>> {
        // Nothing panics while it is locked.
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let owner = self.owner;
        self.set().retain(|_, lease| lease.owner != owner);
    }
}
