//! How far a group is behind.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lightbus_core::{Name, Result, transport::Lag};

use crate::{EventConfig, client::Client, topology};

/// How many events this process has in flight, by group. The broker reports only those that wait in
/// the queue.
#[derive(Debug, Default)]
pub(super) struct InFlightCounts(Mutex<HashMap<Name, Arc<AtomicU64>>>);

impl InFlightCounts {
    pub(super) fn of(&self, group: &Name) -> Arc<AtomicU64> {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(groups.entry(Name::clone(group)).or_default())
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
    let pending = in_flight.of(group).load(Ordering::Relaxed);
    Ok(Lag { waiting: waiting.into(), pending })
}
