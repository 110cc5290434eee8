//! Values by key, some with a time to live.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Stores(HashMap<String, BTreeMap<String, Value>>);

struct Value {
    text: String,
    expires: Option<Instant>,
}

impl Stores {
    pub(super) fn put(&mut self, store: String, key: String, text: String, ttl: Option<u64>) {
        self.0.entry(store).or_default().insert(key, Value { text, expires: ttl.map(expiry) });
    }

    pub(super) fn get(&mut self, store: &str, key: &str) -> Option<String> {
        Some(self.live(store)?.get(key)?.text.clone())
    }

    pub(super) fn delete(&mut self, store: &str, key: &str) -> bool {
        self.live(store).is_some_and(|values| values.remove(key).is_some())
    }

    pub(super) fn keys(&mut self, store: &str) -> Vec<String> {
        self.live(store).into_iter().flat_map(|values| values.keys().cloned()).collect()
    }

    pub(super) fn extend(&mut self, store: &str, key: &str, ttl: u64) -> bool {
        let value = self.live(store).and_then(|values| values.get_mut(key));
        value.map(|value| value.expires = Some(expiry(ttl))).is_some()
    }

    /// The values of a store whose time to live has not ended.
    fn live(&mut self, store: &str) -> Option<&mut BTreeMap<String, Value>> {
        let values = self.0.get_mut(store)?;
        let now = Instant::now();
        values.retain(|_, value| value.expires.is_none_or(|expires| expires > now));
        Some(values)
    }
}

fn expiry(ttl: u64) -> Instant {
    const CENTURY: u64 = 100 * 365 * 24 * 3_600_000;
    Instant::now() + Duration::from_millis(ttl.min(CENTURY))
}
