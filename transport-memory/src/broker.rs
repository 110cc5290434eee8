//! What the transports of one factory share: queues of calls, logs of events, waiting callers,
//! schemas. A lock each, never held over an await.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use lightbus_core::{
    Error, EventMessage, Name, PendingResults, Result, RpcMessage, transport::DeadLetter,
};
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// Dead letters that are kept per group; older ones go.
pub(crate) const MAX_DEAD_LETTERS: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Broker {
    queues: RwLock<HashMap<Name, Arc<Queue>>>,
    streams: RwLock<HashMap<Name, Arc<Stream>>>,
    groups: Mutex<HashMap<Name, Arc<Group>>>,
    callers: RwLock<HashMap<Name, PendingResults>>,
    pub(crate) schemas: Mutex<BTreeMap<String, (Box<RawValue>, Instant)>>,
    ids: AtomicU64,
}

/// The calls of an API that wait for a worker.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) calls: Mutex<VecDeque<RpcMessage>>,
    pub(crate) bell: Notify,
}

/// The events of an API, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    pub(crate) log: RwLock<Log>,
    /// Rings for every group that listens to the stream.
    pub(crate) bells: RwLock<Vec<Arc<Notify>>>,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) events: VecDeque<Arc<EventMessage>>,
    /// The position of the first event that is still there.
    pub(crate) first: u64,
}

/// A consumer group: where it is in each stream, and what came back to it.
#[derive(Debug, Default)]
pub(crate) struct Group {
    pub(crate) place: Mutex<Place>,
    pub(crate) bell: Arc<Notify>,
}

#[derive(Debug, Default)]
pub(crate) struct Place {
    /// By API: the position of the next event to take.
    pub(crate) next: HashMap<Name, u64>,
    pub(crate) given_back: VecDeque<Arc<EventMessage>>,
    pub(crate) pending: u64,
    pub(crate) dead: VecDeque<DeadLetter>,
}

impl Log {
    pub(crate) fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The events from a position on; those that are gone are skipped.
    pub(crate) fn from(
        &self,
        position: u64,
    ) -> impl DoubleEndedIterator<Item = (u64, &Arc<EventMessage>)> {
        let skip = position.saturating_sub(self.first).min(self.events.len() as u64);
        let first = self.first + skip;
        self.events
            .range(skip as usize..)
            .enumerate()
            .map(move |(index, event)| (first + index as u64, event))
    }
}

impl Broker {
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn queue(&self, api: &Name) -> Arc<Queue> {
        get_or_insert(&self.queues, api)
    }

    pub(crate) fn stream(&self, api: &Name) -> Arc<Stream> {
        get_or_insert(&self.streams, api)
    }

    /// The group of this name, and whether it is new.
    pub(crate) fn group(&self, name: &Name) -> Arc<Group> {
        Arc::clone(lock(&self.groups).entry(Name::clone(name)).or_default())
    }

    pub(crate) fn known_group(&self, name: &str) -> Option<Arc<Group>> {
        lock(&self.groups).get(name).cloned()
    }

    pub(crate) fn add_caller(&self, process: Name, results: PendingResults) {
        write(&self.callers).insert(process, results);
    }

    pub(crate) fn remove_caller(&self, process: &str) {
        write(&self.callers).remove(process);
    }

    pub(crate) fn caller(&self, process: &str) -> Option<PendingResults> {
        read(&self.callers).get(process).cloned()
    }
}

fn get_or_insert<T: Default>(map: &RwLock<HashMap<Name, Arc<T>>>, key: &Name) -> Arc<T> {
    if let Some(found) = read(map).get(key) {
        return Arc::clone(found);
    }
    Arc::clone(write(map).entry(Name::clone(key)).or_default())
}

// Nothing panics while a lock is held, and what they guard is whole after any panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a transport is open; its subscriptions watch it.
#[derive(Debug)]
pub(crate) struct Life(watch::Sender<bool>);

impl Life {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(true))
    }

    pub(crate) fn ensure_open(&self) -> Result<()> {
        if *self.0.borrow() { Ok(()) } else { Err(closed()) }
    }

    pub(crate) fn close(&self) {
        self.0.send_replace(false);
    }

    pub(crate) fn watch(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }
}

pub(crate) fn closed() -> Error {
    Error::closed("the memory transport")
}

/// Ends when the transport is closed, or gone.
pub(crate) async fn ended(life: &mut watch::Receiver<bool>) {
    let _ = life.wait_for(|open| !open).await;
}
