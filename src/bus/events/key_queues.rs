//! Order by key: events of one key are handled one after the other, beside those of other keys.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use lightbus_core::{Delivery, EventMessage, Name};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

type Queue = VecDeque<Delivery<EventMessage>>;

/// The keys that have an event at work, each with the events that wait behind it.
///
/// Bounded by the flow's credit: all that waits is held by the subscription too.
pub(super) struct KeyQueues {
    /// The field whose value is the key.
    field: Option<Name>,
    busy: Mutex<HashMap<Bytes, Queue>>,
}

impl KeyQueues {
    pub(super) fn new(field: Option<Name>) -> Self {
        Self { field, busy: Mutex::default() }
    }

    /// The key of an event: the value of the field, or what travels with it as its key.
    pub(super) fn key(&self, message: &EventMessage) -> Option<Bytes> {
        let value = self.field.as_deref().and_then(|field| message.fields.get(field));
        match value {
            Some(value) => canonical(value),
            None => message.key.as_ref().map(|key| Bytes::copy_from_slice(key.as_bytes())),
        }
    }

    /// Gives the delivery back if no event of its key is at work: then the key is the caller's,
    /// until [`next`](Self::next) gives nothing. Otherwise it waits for its turn.
    pub(super) fn enter(
        &self,
        key: &Bytes,
        delivery: Delivery<EventMessage>,
    ) -> Option<Delivery<EventMessage>> {
        match self.busy().entry(key.clone()) {
            Entry::Occupied(mut waiting) => {
                waiting.get_mut().push_back(delivery);
                None
            }
            Entry::Vacant(free) => {
                free.insert(Queue::new());
                Some(delivery)
            }
        }
    }

    /// The next event of a key. Without one, the key is given up.
    pub(super) fn next(&self, key: &Bytes) -> Option<Delivery<EventMessage>> {
        let mut busy = self.busy();
        let next = busy.get_mut(key)?.pop_front();
        if next.is_none() {
            busy.remove(key);
        }
        next
    }

    fn busy(&self) -> MutexGuard<'_, HashMap<Bytes, Queue>> {
        // Nothing panics while it is locked.
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One form for one value: Python escapes what Rust writes as it is. `null` is no key.
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
/// be tried again: failures of one key must not hold up the others.
pub(super) struct Permit {
    permits: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Permit {
    /// Waits for a free place.
    pub(super) async fn take(permits: &Arc<Semaphore>) -> Self {
        let mut permit = Self { permits: Arc::clone(permits), taken: None };
        permit.acquire().await;
        permit
    }

    pub(super) fn release(&mut self) {
        self.taken = None;
    }

    /// Waits for a free place behind those who wait already.
    pub(super) async fn acquire(&mut self) {
        if self.taken.is_none() {
            // Never closed.
            self.taken = Arc::clone(&self.permits).acquire_owned().await.ok();
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
