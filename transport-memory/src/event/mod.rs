//! Events: a bounded log for each API, and consumer groups that remember how far they are.
//!
//! A group reads the logs; nothing is copied for it until one of its consumers fetches. What a
//! consumer takes is *pending* until it is settled, and *returned* to the group when it is released
//! or its consumer ends.
//!
//! Locks are taken in this order, each for a short time: all groups, one group, one stream.

mod dead_letters;
mod group;
mod log;
mod source;

use std::{
    collections::HashMap,
    fmt::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use lightbus_core::{
    Error, ErrorKind, EventMessage, Name, Result, Subscription,
    transport::{
        DeadLetters, EventSelector, EventTransport, GroupSpec, HistorySpec, Lag, ListenSpec, Start,
    },
};

use crate::{
    CAPABILITIES, MemoryConfig,
    client::{Broker, Handle, lock},
};
use group::Group;
use log::{Event, Stream};
use source::EventSource;

const WHAT: &str = "the event transport";

/// Carries events within this process.
pub struct MemoryEventTransport {
    handle: Handle,
    config: MemoryConfig,
}

/// The streams and the groups of a broker.
#[derive(Default)]
pub(crate) struct Events {
    /// The number of the newest event; events are numbered in the order in which they arrive.
    last: AtomicU64,
    streams: Mutex<HashMap<Name, Arc<Stream>>>,
    groups: Mutex<HashMap<Name, Arc<Group>>>,
}

impl Events {
    fn stream(&self, api: &Name) -> Arc<Stream> {
        let mut streams = lock(&self.streams);
        if let Some(stream) = streams.get(api) {
            return Arc::clone(stream);
        }
        Arc::clone(streams.entry(Name::clone(api)).or_default())
    }

    fn known_stream(&self, api: &str) -> Option<Arc<Stream>> {
        lock(&self.streams).get(api).cloned()
    }

    /// Returns the group, which is created if it does not exist. Fails if another listener of another
    /// service has a group of the same joined name: the two would share its events.
    fn group(&self, spec: &GroupSpec) -> Result<Arc<Group>> {
        let mut groups = lock(&self.groups);
        let group = groups.entry(spec.name()).or_insert_with(|| Arc::new(Group::new(spec)));
        if group.spec != *spec {
            return Err(spec.same_name_as(&group.spec));
        }
        Ok(Arc::clone(group))
    }

    fn known_group(&self, spec: &GroupSpec) -> Option<Arc<Group>> {
        lock(&self.groups).get(&spec.name()).filter(|group| group.spec == *spec).cloned()
    }

    fn forget(&self, spec: &GroupSpec) {
        let Some(group) = self.known_group(spec) else { return };
        lock(&self.groups).remove(&spec.name());
        for stream in lock(&self.streams).values() {
            lock(&stream.0).bells.retain(|bell| !Arc::ptr_eq(bell, &group.bell));
        }
    }
}

impl MemoryEventTransport {
    pub(crate) fn new(broker: &Arc<Broker>, config: MemoryConfig) -> Self {
        Self { handle: Handle::new(WHAT, Arc::clone(broker)), config }
    }

    /// Appends events of one API, and wakes its listeners.
    fn append(&self, broker: &Broker, messages: &[EventMessage], ids: &mut Vec<Name>) {
        let Some(first) = messages.first() else { return };
        let stream = broker.events.stream(&first.api);
        // Copied before the lock is taken.
        let messages = messages.to_vec();
        let mut log = lock(&stream.0);
        let time = broker.clock.now();
        let mut digits = String::with_capacity(20);
        for mut message in messages {
            let number = broker.events.last.fetch_add(1, Ordering::Relaxed) + 1;
            digits.clear();
            let _ = write!(digits, "{number}");
            let id = Name::from(&*digits);
            message.native_id = Some(Name::clone(&id));
            message.time = Some(time);
            message.attempt = 1;
            ids.push(id);
            log.events.push_back(Arc::new(Event { number, time, message: Arc::new(message) }));
        }
        let excess = log.events.len().saturating_sub(self.config.max_stream_length.get());
        log.events.drain(..excess);
        log.first += excess as u64;
        for bell in &log.bells {
            bell.notify_waiters();
        }
    }
}

lightbus_core::impl_transport!(MemoryEventTransport { capabilities: |_| CAPABILITIES });

#[async_trait]
impl EventTransport for MemoryEventTransport {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let broker = self.handle.client()?;
        let mut ids = Vec::with_capacity(events.len());
        for events in events.chunk_by(|one, next| one.api == next.api) {
            self.append(broker, events, &mut ids);
        }
        Ok(ids)
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let broker = self.handle.client()?;
        if spec.events.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no event to listen to")
                .with("listener", &spec.group.listener));
        }
        let group = broker.events.group(&spec.group)?;
        let flow = spec.flow;
        let source = EventSource {
            consumer: group.join(&broker.events, &spec),
            group,
            spec,
            broker: Arc::clone(broker),
            max_dead_letters: self.config.max_dead_letters.get(),
            closing: Arc::clone(self.handle.closing()),
        };
        Ok(Subscription::spawn(source, flow))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let events = &self.handle.client()?.events;
        let mut found: Vec<Arc<Event>> = Vec::new();
        if let Some(stream) = events.known_stream(&spec.events.api) {
            let log = lock(&stream.0);
            let from = spec.from.map_or(log.first, |from| log.position(Start::Since(from)));
            let until = |event: &&Arc<Event>| spec.until.is_none_or(|until| event.time <= until);
            let selected = log
                .from(from)
                .take_while(until)
                .filter(|event| spec.events.selects(&event.message.api, &event.message.event));
            found.extend(selected.cloned());
        }
        let messages = found.into_iter().rev().map(|event| {
            // Read, not delivered.
            Ok(EventMessage { attempt: 0, ..(*event.message).clone() })
        });
        Ok(Box::pin(futures_util::stream::iter(messages)))
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        let group = self.handle.client()?.events.known_group(group);
        Ok(group.map(|group| group.lag(events)).unwrap_or_default())
    }

    async fn forget(&self, group: &GroupSpec, _events: &[EventSelector]) -> Result<()> {
        self.handle.client()?.events.forget(group);
        Ok(())
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}
