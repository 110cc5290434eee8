//! The topic of schemas, and what a process has read of it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use lightbus_core::Result;
use rdkafka::Message;

use crate::{
    client::Client,
    header::{self, Found},
    reader::{Reader, time_of},
};

/// The prefix of the key of a record that only renews a schema. No API has such a name.
pub(super) const ALIVE: &str = "alive:";

/// What was read of the topic.
#[derive(Default)]
pub(super) struct SchemaStore {
    reader: Option<Reader>,
    next: i64,
    pub(super) schemas: HashMap<String, Entry>,
}

#[derive(Default)]
pub(super) struct Entry {
    schema: Option<Vec<u8>>,
    expires: Option<SystemTime>,
}

impl SchemaStore {
    pub(super) fn catch_up(&mut self, client: &Client, topic: &str, group: &str) -> Result<()> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => client.reader(group)?,
        };
        let reader = self.reader.insert(reader);
        let (low, high) = reader.bounds(topic, 0)?;
        if high < self.next {
            // The topic was deleted and created again.
            self.schemas.clear();
            self.next = 0;
        }
        let schemas = &mut self.schemas;
        let mut next = self.next;
        let read = reader.read(topic, 0, self.next.max(low), high, |record| {
            next = record.offset() + 1;
            note(schemas, record);
        });
        self.next = if read.is_ok() { high } else { next };
        read
    }
}

fn note<M: Message>(schemas: &mut HashMap<String, Entry>, record: &M) {
    let Some(key) = record.key().and_then(|key| std::str::from_utf8(key).ok()) else { return };
    let (api, stored) = match key.strip_prefix(ALIVE) {
        Some(api) => (api, false),
        None => (key, true),
    };
    let ttl = Found::read(record, [header::TTL_MS])
        .get(header::TTL_MS)
        .and_then(|text| text.parse().ok())
        .map(Duration::from_millis);
    let expires = ttl.and_then(|ttl| time_of(record).checked_add(ttl));
    let entry = schemas.entry(api.to_owned()).or_default();
    entry.expires = expires;
    if stored {
        entry.schema = record.payload().map(<[u8]>::to_vec);
    }
}

impl Entry {
    pub(super) fn living(&self) -> Option<&[u8]> {
        let lives = self.expires.is_none_or(|expires| expires > SystemTime::now());
        self.schema.as_deref().filter(|_| lives)
    }
}

/// Drops the reader when it is dropped.
pub(super) struct Ended(pub(super) Arc<Mutex<SchemaStore>>);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).reader.take());
    }
}
