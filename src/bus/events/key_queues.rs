//! Ordering by key: events of one key are handled one after the other, events of different keys
//! concurrently.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use lightbus_core::{Delivery, EventMessage, Name};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Declared = Box<dyn Fn(&EventMessage) -> Option<Name> + Send + Sync>;
type Queue = VecDeque<Delivery<EventMessage>>;

/// The keys of which an event is being handled, each with the events that wait behind it.
///
/// Bounded by the subscription's credit, which counts the waiting events too.
pub(super) struct KeyQueues {
    /// The field whose value is the key.
    field: Option<Name>,
    /// Returns the key that an event's API declares, for events that carry none: not every transport
    /// has a place for it, and no event of Python has one.
    declared: Declared,
    busy: Mutex<HashMap<Bytes, Queue>>,
}

impl KeyQueues {
    pub(super) fn new(field: Option<Name>, declared: Declared) -> Self {
        Self { field, declared, busy: Mutex::default() }
    }

    /// Returns the key of an event: the value of the field, the key that was sent with it, or the one
    /// that its API declares.
    pub(super) fn key(&self, message: &EventMessage) -> Option<Bytes> {
        let value = self.field.as_deref().and_then(|field| message.fields.get(field));
        match value {
            Some(value) => canonical(value),
            None => {
                let key = message.key.clone().or_else(|| (self.declared)(message));
                key.map(|key| Bytes::copy_from_slice(key.as_bytes()))
            }
        }
    }

    /// Returns the delivery if no event of its key is being handled. The caller then owns the key until
    /// [`next`](Self::next) returns `None`. Otherwise the delivery is queued behind the others.
    pub(super) fn enter(
        &self,
        key: &Bytes,
        mut delivery: Delivery<EventMessage>,
    ) -> Option<Delivery<EventMessage>> {
        match self.busy().entry(key.clone()) {
            Entry::Occupied(mut waiting) => {
                // Others may be taken in the place of it: its key must not hold them up.
                delivery.ack.hold_back();
                waiting.get_mut().push_back(delivery);
                None
            }
            Entry::Vacant(free) => {
                free.insert(Queue::new());
                Some(delivery)
            }
        }
    }

    /// Returns the next event of a key that the caller owns, or `None`, which releases the key.
    pub(super) fn next(&self, key: &Bytes) -> Option<Delivery<EventMessage>> {
        let mut busy = self.busy();
        let next = busy.get_mut(key)?.pop_front();
        if next.is_none() {
            busy.remove(key);
        }
        next
    }

    /// The next event of a key, which is kept also without one.
    pub(super) fn waiting(&self, key: &Bytes) -> Option<Delivery<EventMessage>> {
        self.busy().get_mut(key)?.pop_front()
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<Bytes, Queue>> {
        // No code that holds the lock can panic.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns one form for equal values: Python escapes characters that Rust writes as they are. `null` is
/// no key.
fn canonical(json: &Bytes) -> Option<Bytes> {
    if &json[..] == b"null" {
        return None;
    }
    if !json.contains(&b'\\') {
        return Some(json.clone());
    }
    let value = serde_json::from_slice::<serde_json::Value>(json);
    Some(value.map_or_else(|_| json.clone(), |value| value.to_string().into()))
}

/// A handler's place among those that work at once. It is free while the handler's event waits to
/// be tried again: failures of one key must not hold up the others. An event that may have ended its
/// process takes all places: nothing begins beside it.
pub(super) struct Permit {
    permits: Arc<Semaphore>,
    all: u32,
    taken: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// None yet, of so many.
    pub(super) fn of(permits: &Arc<Semaphore>, all: u32) -> Self {
        Self { permits: Arc::clone(permits), all, taken: None }
    }

    pub(super) fn release(&mut self) {
        self.taken = None;
    }

    /// Waits for a free place, or for all, behind those who wait already.
    pub(super) async fn acquire(&mut self, alone: bool) {
        if self.taken.is_none() {
            let count = if alone { self.all } else { 1 };
            // Never closed.
            self.taken = Arc::clone(&self.permits).acquire_many_owned(count).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_one_key_however_it_is_written() {
        let key = |json: &'static str| canonical(&Bytes::from_static(json.as_bytes()));
        assert_eq!(key("\"Zo\\u00eb\""), key("\"Zoë\""));
        assert_ne!(key("\"a\""), key("\"b\""));
        assert_ne!(key("1"), key("\"1\""));
        assert_eq!(key("null"), None);
    }
}
