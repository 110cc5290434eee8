//! Events: a bounded log for each API, and consumer groups that remember how far they are.
//!
//! A group reads the logs; nothing is copied for it until one of its consumers fetches. What a
//! consumer has taken is *pending* until it is settled, and *returned* to the group when it is given
//! back or its consumer ends.
//!
//! Locks are taken in this order, each for a short time: all groups, one group, one stream.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque, btree_map::Entry},
    fmt::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use lightbus_core::{
    Error, ErrorKind, EventMessage, Name, Outcome, Rejection, Result, Source, Subscription,
    transport::{
        DeadLetter, DeadLetters, EventSelector, EventTransport, GroupSpec, HistorySpec, Lag,
        ListenSpec, Start,
    },
};
use tokio::sync::Notify;

use crate::{
    MemoryConfig,
    client::{Client, Open, lock},
};

/// How many events are looked at under one lock. A listener that wants few of many must not hold up
/// those who send.
const LOOK_AT: usize = 1024;

/// Carries events within this process.
pub struct MemoryEventTransport {
    client: Client,
    config: MemoryConfig,
    open: Arc<Open>,
}

/// The streams and the groups of a broker.
#[derive(Default)]
pub(crate) struct Events {
    /// Numbers all events of the broker, in the order in which it took them.
    last: AtomicU64,
    streams: Mutex<HashMap<Name, Arc<Stream>>>,
    groups: Mutex<HashMap<Name, Arc<Group>>>,
}

/// The events of one API.
#[derive(Default)]
struct Stream(Mutex<Log>);

#[derive(Default)]
struct Log {
    /// The position of the first event that is still kept.
    first: u64,
    events: VecDeque<Arc<Event>>,
    /// The groups to wake.
    bells: Vec<Arc<Notify>>,
}

struct Event {
    number: u64,
    time: SystemTime,
    /// As it is delivered the first time.
    message: Arc<EventMessage>,
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

    fn group(&self, name: &Name) -> Arc<Group> {
        let mut groups = lock(&self.groups);
        let new = || Arc::new(Group::new(name));
        Arc::clone(groups.entry(Name::clone(name)).or_insert_with(new))
    }

    fn known_group(&self, name: &str) -> Option<Arc<Group>> {
        lock(&self.groups).get(name).cloned()
    }

    fn forget(&self, name: &str) {
        let Some(group) = lock(&self.groups).remove(name) else { return };
        for stream in lock(&self.streams).values() {
            lock(&stream.0).bells.retain(|bell| !Arc::ptr_eq(bell, &group.bell));
        }
    }
}

impl Log {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The events from a position on.
    fn from(&self, position: u64) -> impl Iterator<Item = &Arc<Event>> {
        let skip = position.saturating_sub(self.first).min(self.events.len() as u64);
        self.events.range(skip as usize..)
    }

    fn position(&self, start: Start) -> u64 {
        match start {
            Start::New => self.end(),
            Start::Earliest => self.first,
            Start::Since(time) => {
                self.first + self.events.partition_point(|event| event.time < time) as u64
            }
        }
    }
}

/// A consumer group. It stays when its consumers go.
struct Group {
    name: Name,
    state: Mutex<GroupState>,
    /// Wakes all consumers: they may want different events, and one that does not want the new one
    /// must not be the only one to hear of it.
    bell: Arc<Notify>,
    dead: Mutex<Dead>,
}

#[derive(Default)]
struct GroupState {
    cursors: Vec<Cursor>,
    /// Given back, by number: the oldest is the next to be taken.
    returned: BTreeMap<u64, Taken>,
    /// Taken and not settled, by number.
    pending: BTreeMap<u64, (ConsumerId, Taken)>,
    last_consumer: ConsumerId,
}

/// What a group has set aside, numbered in that order.
#[derive(Default)]
struct Dead {
    last: u64,
    letters: VecDeque<SetAside>,
}

struct SetAside {
    number: u64,
    letter: DeadLetter,
    /// To be given back.
    event: Arc<Event>,
}

type ConsumerId = u64;

/// How far a group is in a stream.
struct Cursor {
    api: Name,
    stream: Arc<Stream>,
    /// The position of the next event to look at.
    next: u64,
}

#[derive(Clone)]
struct Taken {
    event: Arc<Event>,
    /// How often it was taken.
    attempt: u32,
}

/// What a consumer got from its group.
struct Took {
    taken: Vec<Taken>,
    /// Whether the streams have events that the group has not looked at.
    more: bool,
}

impl Cursor {
    /// Goes on over the events that come next, for as long as `look` wants more of them. Gives
    /// whether there are events left.
    fn look(&mut self, group: &str, mut look: impl FnMut(u64, &Arc<Event>) -> bool) -> bool {
        let log = lock(&self.stream.0);
        if self.next < log.first {
            let lost = log.first - self.next;
            tracing::warn!(group, api = %self.api, lost, "a listener was too far behind and has lost events");
            self.next = log.first;
        }
        for event in log.from(self.next).take(LOOK_AT) {
            self.next += 1;
            if !look(self.next - 1, event) {
                break;
            }
        }
        self.next < log.end()
    }
}

impl Taken {
    fn message(&self) -> Arc<EventMessage> {
        if self.attempt == self.event.message.attempt {
            // All its listeners have the same one.
            return Arc::clone(&self.event.message);
        }
        Arc::new(EventMessage { attempt: self.attempt, ..(*self.event.message).clone() })
    }
}

impl Group {
    fn new(name: &Name) -> Self {
        Self {
            name: Name::clone(name),
            state: Mutex::default(),
            bell: Arc::default(),
            dead: Mutex::default(),
        }
    }

    /// Begins with the streams that the group does not know yet, and adds a consumer.
    fn join(&self, events: &Events, spec: &ListenSpec) -> ConsumerId {
        let mut state = lock(&self.state);
        for selector in &spec.events {
            if state.cursors.iter().any(|cursor| cursor.api == selector.api) {
                continue;
            }
            let stream = events.stream(&selector.api);
            let mut log = lock(&stream.0);
            log.bells.push(Arc::clone(&self.bell));
            let next = log.position(spec.start);
            drop(log);
            state.cursors.push(Cursor { api: Name::clone(&selector.api), stream, next });
        }
        state.last_consumer += 1;
        state.last_consumer
    }

    /// Takes what the group was given back and then what is new, the oldest first.
    fn take(&self, consumer: ConsumerId, spec: &ListenSpec, max: usize) -> Took {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let wants = |event: &Event| spec.wants(&event.message.api, &event.message.event);
        let mut taken = Vec::new();
        if !state.returned.is_empty() {
            let again = state.returned.iter().filter(|(_, taken)| wants(&taken.event));
            let again: Vec<_> = again.map(|(number, _)| *number).take(max).collect();
            let again = again.iter().filter_map(|number| state.returned.remove(number));
            taken.extend(again.map(|Taken { event, attempt }| Taken {
                event,
                attempt: attempt.saturating_add(1),
            }));
        }
        let room = max - taken.len();
        let mut found: Vec<(usize, u64, Arc<Event>)> = Vec::new();
        let mut more = false;
        for (index, cursor) in state.cursors.iter_mut().enumerate() {
            if room > 0 && spec.events.iter().any(|selector| selector.api == cursor.api) {
                let enough = found.len() + room;
                more |= cursor.look(&self.name, |position, event| {
                    if wants(event) {
                        found.push((index, position, Arc::clone(event)));
                    }
                    found.len() < enough
                });
            }
        }
        // Of several streams the oldest come first; what is too much stays where it was.
        found.sort_unstable_by_key(|(_, _, event)| event.number);
        for (index, position, _) in found.drain(room.min(found.len())..) {
            let cursor = &mut state.cursors[index];
            cursor.next = cursor.next.min(position);
            more = true;
        }
        taken.extend(found.into_iter().map(|(_, _, event)| Taken { event, attempt: 1 }));
        let pending = taken.iter().map(|taken| (taken.event.number, (consumer, taken.clone())));
        state.pending.extend(pending);
        Took { taken, more: more || room == 0 }
    }

    /// What becomes of events that were taken. Those that are not this consumer's any more were given
    /// back before.
    fn settle(
        &self,
        consumer: ConsumerId,
        settled: &[(u64, Outcome)],
        max_dead_letters: usize,
        now: SystemTime,
    ) {
        let mut rejected = Vec::new();
        let mut returned = false;
        let mut state = lock(&self.state);
        let state = &mut *state;
        for (number, outcome) in settled {
            let Entry::Occupied(entry) = state.pending.entry(*number) else { continue };
            if entry.get().0 != consumer {
                continue;
            }
            let (_, taken) = entry.remove();
            match outcome {
                Outcome::Done => {}
                Outcome::Retry => {
                    state.returned.insert(*number, taken);
                    returned = true;
                }
                Outcome::Reject(reason) => {
                    rejected.push((self.letter(&taken, reason, now), taken.event));
                }
            }
        }
        if !rejected.is_empty() {
            // Still under the group's lock: it is never neither pending nor set aside.
            let mut dead = lock(&self.dead);
            for (mut letter, event) in rejected {
                dead.last += 1;
                letter.id = dead.last.to_string().into();
                let number = dead.last;
                dead.letters.push_back(SetAside { number, letter, event });
            }
            let excess = dead.letters.len().saturating_sub(max_dead_letters);
            dead.letters.drain(..excess);
        }
        if returned {
            self.bell.notify_waiters();
        }
    }

    fn letter(&self, taken: &Taken, rejection: &Rejection, time: SystemTime) -> DeadLetter {
        let event = EventMessage::clone(&taken.message());
        DeadLetter {
            // Its number among the letters, once it is one.
            id: "".into(),
            event,
            group: Name::clone(&self.name),
            reason: rejection.reason().to_owned(),
            attempts: rejection.attempts(taken.attempt),
            time,
        }
    }

    fn letters_after(&self, number: u64, limit: usize) -> Vec<DeadLetter> {
        let dead = lock(&self.dead);
        let from = dead.letters.partition_point(|aside| aside.number <= number);
        dead.letters.range(from..).take(limit).map(|aside| aside.letter.clone()).collect()
    }

    /// Takes letters away; gives what they were.
    fn remove_letters(&self, ids: &[Name]) -> VecDeque<SetAside> {
        let ids: HashSet<_> = ids.iter().collect();
        let mut dead = lock(&self.dead);
        let all = std::mem::take(&mut dead.letters).into_iter();
        let (removed, kept): (VecDeque<_>, _) =
            all.partition(|aside| ids.contains(&aside.letter.id));
        dead.letters = kept;
        removed
    }

    /// Gives letters back to the consumers, each in its old place and as if it were new.
    fn retry(&self, ids: &[Name]) -> usize {
        // Under the group's lock: it is never neither here nor there.
        let mut state = lock(&self.state);
        let removed = self.remove_letters(ids);
        for SetAside { event, .. } in &removed {
            let taken = Taken { event: Arc::clone(event), attempt: 0 };
            state.returned.insert(event.number, taken);
        }
        if !removed.is_empty() {
            self.bell.notify_waiters();
        }
        removed.len()
    }

    /// Ends a consumer: what it has not settled is for the others at once.
    fn leave(&self, consumer: ConsumerId) {
        let mut state = lock(&self.state);
        let state = &mut *state;
        let left = state.pending.iter().filter(|(_, (owner, _))| *owner == consumer);
        let left: Vec<_> = left.map(|(number, _)| *number).collect();
        for number in left {
            if let Some((_, taken)) = state.pending.remove(&number) {
                state.returned.insert(number, taken);
            }
        }
        if !state.returned.is_empty() {
            self.bell.notify_waiters();
        }
    }

    fn lag(&self, events: &[EventSelector]) -> Lag {
        let state = lock(&self.state);
        let asked = |api: &str| events.iter().any(|selector| *selector.api == *api);
        let waiting = state.cursors.iter().filter(|cursor| asked(&cursor.api)).map(|cursor| {
            let log = lock(&cursor.stream.0);
            log.end() - cursor.next.max(log.first)
        });
        let taken = state.pending.values().map(|(_, taken)| taken).chain(state.returned.values());
        let pending = taken.filter(|taken| asked(&taken.event.message.api)).count();
        Lag { waiting: waiting.sum(), pending: pending as u64 }
    }
}

impl MemoryEventTransport {
    pub(crate) fn new(client: &Client, config: MemoryConfig) -> Self {
        Self { client: client.clone(), config, open: Open::new("the event transport") }
    }

    fn shut(&self) {
        self.open.close();
    }

    /// Appends events of one API, and wakes its listeners.
    fn append(&self, api: &Name, messages: &[EventMessage], ids: &mut Vec<Name>) {
        // Copied before the lock is taken.
        let messages = messages.to_vec();
        let events = &self.client.events;
        let stream = events.stream(api);
        let mut log = lock(&stream.0);
        let time = self.client.clock.now();
        let mut digits = String::with_capacity(20);
        for mut message in messages {
            let number = events.last.fetch_add(1, Ordering::Relaxed) + 1;
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

crate::transport!(MemoryEventTransport, "event transport");

#[async_trait]
impl EventTransport for MemoryEventTransport {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        self.open.check("sending events")?;
        let mut ids = Vec::with_capacity(events.len());
        for events in events.chunk_by(|one, next| one.api == next.api) {
            self.append(&events[0].api, events, &mut ids);
        }
        Ok(ids)
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        const OPERATION: &str = "listening to events";
        self.open.check(OPERATION)?;
        if spec.events.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no event to listen to")
                .during(OPERATION)
                .with("listener", &spec.group.listener));
        }
        let group = self.client.events.group(&spec.group.name());
        let flow = spec.flow;
        let source = EventSource {
            consumer: group.join(&self.client.events, &spec),
            group,
            spec,
            client: self.client.clone(),
            max_dead_letters: self.config.max_dead_letters.get(),
            open: Arc::clone(&self.open),
        };
        Ok(Subscription::spawn(source, flow))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        self.open.check("reading the history of events")?;
        let mut found: Vec<Arc<Event>> = Vec::new();
        if let Some(stream) = self.client.events.known_stream(&spec.events.api) {
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
        self.open.check("measuring the lag of a listener")?;
        let group = self.client.events.known_group(&group.name());
        Ok(group.map(|group| group.lag(events)).unwrap_or_default())
    }

    async fn forget(&self, group: &GroupSpec, _events: &[EventSelector]) -> Result<()> {
        self.open.check("forgetting a listener")?;
        self.client.events.forget(&group.name());
        Ok(())
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

#[async_trait]
impl DeadLetters for MemoryEventTransport {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        const OPERATION: &str = "reading dead letters";
        self.open.check(OPERATION)?;
        let after = match after.map(str::parse) {
            None => 0,
            Some(Ok(number)) => number,
            Some(Err(_)) => {
                return Err(Error::new(ErrorKind::Invalid, "this is not the id of a dead letter")
                    .during(OPERATION)
                    .with("id", after.unwrap_or_default()));
            }
        };
        let group = self.client.events.known_group(&group.name());
        Ok(group.map(|group| group.letters_after(after, limit)).unwrap_or_default())
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        self.open.check("removing dead letters")?;
        let group = self.client.events.known_group(&group.name());
        Ok(group.map_or(0, |group| group.remove_letters(ids).len()))
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        self.open.check("requeuing dead letters")?;
        let group = self.client.events.known_group(&group.name());
        Ok(group.map_or(0, |group| group.retry(ids)))
    }
}

/// One consumer's side of its group.
struct EventSource {
    consumer: ConsumerId,
    group: Arc<Group>,
    spec: ListenSpec,
    client: Client,
    max_dead_letters: usize,
    open: Arc<Open>,
}

#[async_trait]
impl Source for EventSource {
    type Message = EventMessage;
    /// The event's number.
    type Token = u64;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<EventMessage>, u64)>> {
        loop {
            let closing = self.open.closing();
            self.open.check("taking events")?;
            // Made before looking: it hears what rings from now on.
            let rung = self.group.bell.notified();
            // Taken and returned without waiting in between: dropped, it has taken nothing.
            let Took { taken, more } = self.group.take(self.consumer, &self.spec, max);
            if !taken.is_empty() {
                let deliver = |taken: Taken| (taken.message(), taken.event.number);
                return Ok(taken.into_iter().map(deliver).collect());
            }
            if more {
                // Many that nobody asked for: others may work before the next ones are looked at.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = rung => {}
                () = closing => {}
            }
        }
    }

    async fn settle(&self, settled: &[(u64, Outcome)]) -> Result<()> {
        let now = self.client.clock.now();
        self.group.settle(self.consumer, settled, self.max_dead_letters, now);
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.group.leave(self.consumer);
        Ok(())
    }
}

impl Drop for EventSource {
    /// Also where the consumer's task was killed: a consumer that is gone holds nothing.
    fn drop(&mut self) {
        self.group.leave(self.consumer);
    }
}
