//! Consumer groups that the buses of this program listen as: mistakes that would share a group's events
//! are refused here, before the broker sees them.
//!
//! A broker knows a group by its joined name, `{service}-{listener}`. Two services of one program can
//! therefore have one group (`mail-order` with `confirm`, `mail` with `order-confirm`), and two buses of
//! one program can be one consumer of a group, if their process has a configured name. Of other programs
//! only the broker knows: what each transport can see there, it warns about.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lightbus_core::{Error, ErrorKind, Name, Result, transport::GroupSpec};

use crate::{
    bus::shared::{ApiEntry, Inner, Phase},
    config::Selector,
};

/// A group that a bus listens as. It is free again when this is dropped, and when the bus drains.
#[derive(Debug)]
pub(super) struct Claim(Arc<Claimed>);

#[derive(Debug)]
struct Claimed {
    bus: Weak<Inner>,
    group: GroupSpec,
    joined: Name,
    process: Name,
    /// The broker, and how it is configured: two installations may share a broker.
    broker: String,
    transport: Option<Selector>,
}

static CLAIMS: Mutex<Vec<Arc<Claimed>>> = Mutex::new(Vec::new());

fn claims() -> MutexGuard<'static, Vec<Arc<Claimed>>> {
    CLAIMS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Claim {
    /// Claims a group for a bus. `None` where nothing can be mistaken: the transport stays within its
    /// own broker in memory, which refuses equal names itself, or a test isolates its processes.
    pub(super) fn new(
        inner: &Arc<Inner>,
        entry: &ApiEntry,
        group: &GroupSpec,
    ) -> Result<Option<Self>> {
        #[cfg(feature = "testing")]
        if inner.test.is_some() {
            return Ok(None);
        }
        if !entry.event.capabilities().shared {
            return Ok(None);
        }
        let claimed = Arc::new(Claimed {
            bus: Arc::downgrade(inner),
            group: group.clone(),
            joined: group.name(),
            process: Name::clone(&inner.names.process),
            broker: format!("{} {}", entry.event.name(), entry.event.broker()),
            transport: entry.config.event_transport.clone(),
        });
        // Dropped after the lock: the last handle of a bus drops its claims, which takes the lock.
        let mut alive = Vec::new();
        let mut claims = claims();
        let same_group = |other: &&Arc<Claimed>| {
            other.joined == claimed.joined
                && other.broker == claimed.broker
                && other.transport == claimed.transport
        };
        for other in claims.iter().filter(same_group) {
            let Some(bus) = other.bus.upgrade() else { continue };
            let drains = *bus.phase.borrow() >= Phase::Draining;
            alive.push(bus);
            if drains {
                continue;
            }
            if other.group != claimed.group {
                return Err(group.same_name_as(&other.group));
            }
            if other.process == claimed.process && !Weak::ptr_eq(&other.bus, &claimed.bus) {
                return Err(same_process(&claimed.process));
            }
        }
        claims.push(Arc::clone(&claimed));
        Ok(Some(Self(claimed)))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        claims().retain(|other| !Arc::ptr_eq(other, &self.0));
    }
}

fn same_process(process: &Name) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("another bus of this program listens as this, with the same process name `{process}`: each event could be handled by both"),
    )
    .hint("Give each a process name of its own, or leave it out")
}
