//! The events of one API: a bounded log.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use lightbus_core::{EventMessage, transport::Start};
use tokio::sync::Notify;

/// The events of one API, and a lock.
#[derive(Default)]
pub(super) struct Stream(pub(super) Mutex<Log>);

#[derive(Default)]
pub(super) struct Log {
    /// The position of the first event that is still kept.
    pub(super) first: u64,
    pub(super) events: VecDeque<Arc<Event>>,
    /// The groups to wake.
    pub(super) bells: Vec<Arc<Notify>>,
}

pub(super) struct Event {
    pub(super) number: u64,
    pub(super) time: SystemTime,
    /// As it is delivered the first time.
    pub(super) message: Arc<EventMessage>,
}

impl Log {
    pub(super) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// Iterates over the events from a position on.
    pub(super) fn from(&self, position: u64) -> impl Iterator<Item = &Arc<Event>> {
        let skip = position.saturating_sub(self.first).min(self.events.len() as u64);
        self.events.range(skip as usize..)
    }

    pub(super) fn position(&self, start: Start) -> u64 {
        match start {
            Start::New => self.end(),
            Start::Earliest => self.first,
            Start::Since(time) => {
                self.first + self.events.partition_point(|event| event.time < time) as u64
            }
        }
    }
}
