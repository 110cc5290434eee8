//! How far a group is behind.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use lightbus_core::{Name, Result, transport::Lag};

use super::prefetch::Prefetch;
use crate::{EventConfig, client::Client, topology};

/// How many events this process has in flight, by group. The broker reports only those that wait in
/// the queue.
#[derive(Default)]
pub(super) struct InFlightCounts(Mutex<HashMap<Name, Group>>);

#[derive(Default)]
struct Group {
    in_flight: Arc<AtomicU64>,
    /// Of each subscription.
    prefetches: Vec<Weak<Prefetch>>,
}

impl InFlightCounts {
    pub(super) fn of(&self, group: &Name) -> Arc<AtomicU64> {
        Arc::clone(&self.groups().entry(Name::clone(group)).or_default().in_flight)
    }

    /// Adds a subscription whose deliveries are counted.
    pub(super) fn add(&self, group: &Name, prefetch: &Arc<Prefetch>) {
        let mut groups = self.groups();
        let prefetches = &mut groups.entry(Name::clone(group)).or_default().prefetches;
        prefetches.retain(|prefetch| prefetch.strong_count() > 0);
        prefetches.push(Arc::downgrade(prefetch));
    }

    /// Waits until what has arrived is counted.
    async fn count(&self, group: &Name) {
        let prefetches: Vec<_> = {
            let mut groups = self.groups();
            let prefetches = &groups.entry(Name::clone(group)).or_default().prefetches;
            prefetches.iter().filter_map(Weak::upgrade).collect()
        };
        for prefetch in prefetches {
            prefetch.count().await;
        }
    }

    fn groups(&self) -> MutexGuard<'_, HashMap<Name, Group>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for InFlightCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlightCounts").finish_non_exhaustive()
    }
}

/// Returns the length of a group's queue, and how many events this process has in flight.
pub(super) async fn lag(
    client: &Client,
    config: &EventConfig,
    in_flight: &InFlightCounts,
    group: &Name,
) -> Result<Lag> {
    let link = client.consumes().await?;
    let queue = topology::queue_of(config, group);
    let Some(waiting) = topology::waiting(&link, &queue).await? else {
        return Ok(Lag::default());
    };
    let in_flight_now = in_flight.of(group);
    if waiting == 0 && in_flight_now.load(Ordering::Relaxed) == 0 {
        // It may just have been delivered.
        in_flight.count(group).await;
    }
    let pending = in_flight_now.load(Ordering::Relaxed);
    Ok(Lag { waiting: waiting.into(), pending })
}
