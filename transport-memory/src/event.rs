//! Events: a log per API, and consumer groups with a place in it.

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use futures_util::stream;
use lightbus_core::{
    Error, ErrorKind, EventMessage, Name, Outcome, Result, Source, Subscription,
    transport::{DeadLetter, EventTransport, HistorySpec, Lag, LagSpec, ListenSpec, Start},
};
use tokio::sync::watch;

use crate::{
    MemoryConfig,
    broker::{
        Broker, Group, Life, Log, MAX_DEAD_LETTERS, Stream, closed, ended, lock, read, write,
    },
    transport,
};

/// Carries events within the process.
#[derive(Debug)]
pub struct MemoryEventTransport {
    broker: Arc<Broker>,
    config: MemoryConfig,
    pub(crate) life: Life,
}

transport!(MemoryEventTransport);

impl MemoryEventTransport {
    pub(crate) fn new(broker: Arc<Broker>, config: MemoryConfig) -> Self {
        Self { broker, config, life: Life::new() }
    }

    fn append(&self, log: &mut Log, event: &EventMessage) -> Name {
        let mut event = event.clone();
        let id: Name = format!("{}-{}", event.api, log.end()).into();
        event.native_id = Some(Name::clone(&id));
        event.time = Some(SystemTime::now());
        log.events.push_back(Arc::new(event));
        while log.events.len() > self.config.max_stream_length {
            log.events.pop_front();
            log.first += 1;
        }
        id
    }
}

#[async_trait]
impl EventTransport for MemoryEventTransport {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        self.life.ensure_open()?;
        let mut ids = Vec::with_capacity(events.len());
        let mut rest = events;
        while let Some(first) = rest.first() {
            // Neighbours of one API are appended together.
            let run = rest.iter().take_while(|event| event.api == first.api).count();
            let stream = self.broker.stream(&first.api);
            {
                let mut log = write(&stream.log);
                ids.extend(rest[..run].iter().map(|event| self.append(&mut log, event)));
            }
            for bell in read(&stream.bells).iter() {
                bell.notify_one();
            }
            rest = &rest[run..];
        }
        Ok(ids)
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        self.life.ensure_open()?;
        if spec.events.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no event to listen to")
                .during("listening")
                .with("listener", &spec.listener));
        }
        let group = self.broker.group(&spec.group());
        let mut streams: Vec<(Name, Arc<Stream>)> = Vec::new();
        for selector in &spec.events {
            if streams.iter().all(|(api, _)| *api != selector.api) {
                streams.push((Name::clone(&selector.api), self.broker.stream(&selector.api)));
            }
        }
        for (api, stream) in &streams {
            let log = read(&stream.log);
            lock(&group.place)
                .next
                .entry(Name::clone(api))
                .or_insert_with(|| start_of(&log, spec.start));
            drop(log);
            let mut bells = write(&stream.bells);
            if bells.iter().all(|bell| !Arc::ptr_eq(bell, &group.bell)) {
                bells.push(Arc::clone(&group.bell));
            }
        }
        let flow = spec.flow;
        Ok(Subscription::spawn(Events { group, streams, spec, life: self.life.watch() }, flow))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        self.life.ensure_open()?;
        let stream = self.broker.stream(&spec.events.api);
        let log = read(&stream.log);
        let within = |event: &EventMessage| {
            let time = event.time.unwrap_or(SystemTime::UNIX_EPOCH);
            spec.events.selects(&event.api, &event.event)
                && spec.from.is_none_or(|from| time >= from)
                && spec.until.is_none_or(|until| time <= until)
        };
        let found: Vec<_> =
            log.events.iter().rev().filter(|event| within(event)).cloned().collect();
        Ok(Box::pin(stream::iter(found.into_iter().map(|event| Ok(EventMessage::clone(&event))))))
    }

    async fn lag(&self, spec: LagSpec) -> Result<Lag> {
        self.life.ensure_open()?;
        let Some(group) = self.broker.known_group(&spec.group()) else { return Ok(Lag::default()) };
        let place = lock(&group.place);
        let mut lag = Lag { waiting: place.given_back.len() as u64, pending: place.pending };
        for (api, next) in &place.next {
            let stream = self.broker.stream(api);
            let log = read(&stream.log);
            let wanted = log.from(*next).filter(|(_, event)| {
                spec.events.iter().any(|selector| selector.selects(&event.api, &event.event))
            });
            lag.waiting += wanted.count() as u64;
        }
        Ok(lag)
    }

    async fn dead_letters(
        &self,
        service: &str,
        listener: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.life.ensure_open()?;
        let group = self.broker.known_group(&format!("{service}-{listener}"));
        Ok(group.map_or_else(Vec::new, |group| {
            lock(&group.place).dead.iter().take(limit).cloned().collect()
        }))
    }
}

fn start_of(log: &Log, start: Start) -> u64 {
    match start {
        Start::New => log.end(),
        Start::Earliest => log.first,
        Start::Since(time) => {
            let older = log
                .events
                .iter()
                .take_while(|event| event.time.is_some_and(|at| at < time))
                .count();
            log.first + older as u64
        }
    }
}

struct Events {
    group: Arc<Group>,
    streams: Vec<(Name, Arc<Stream>)>,
    spec: ListenSpec,
    life: watch::Receiver<bool>,
}

impl Events {
    fn take(&self, max: usize) -> Vec<(EventMessage, Arc<EventMessage>)> {
        let mut taken = Vec::new();
        let mut place = lock(&self.group.place);
        while taken.len() < max {
            let Some(event) = place.given_back.pop_front() else { break };
            taken.push(event);
        }
        for (api, stream) in &self.streams {
            let Some(next) = place.next.get_mut(api) else { continue };
            let log = read(&stream.log);
            for (position, event) in log.from(*next) {
                if taken.len() >= max {
                    break;
                }
                *next = position + 1;
                if self.spec.wants(&event.api, &event.event) {
                    taken.push(Arc::clone(event));
                }
            }
        }
        place.pending += taken.len() as u64;
        drop(place);
        if taken.len() == max {
            // There is more, perhaps, for this consumer or another.
            self.group.bell.notify_one();
        }
        taken.into_iter().map(|event| (EventMessage::clone(&event), event)).collect()
    }
}

#[async_trait]
impl Source for Events {
    type Message = EventMessage;
    type Token = Arc<EventMessage>;

    // Cancel safe: what is taken is returned without another await.
    async fn fetch(&self, max: usize) -> Result<Vec<(EventMessage, Arc<EventMessage>)>> {
        let mut life = self.life.clone();
        loop {
            if !*life.borrow() {
                return Err(closed());
            }
            let bell = self.group.bell.notified();
            let taken = self.take(max);
            if !taken.is_empty() {
                return Ok(taken);
            }
            tokio::select! {
                () = bell => {}
                () = ended(&mut life) => {}
            }
        }
    }

    async fn settle(&self, settled: &[(Arc<EventMessage>, Outcome)]) -> Result<()> {
        let mut place = lock(&self.group.place);
        place.pending = place.pending.saturating_sub(settled.len() as u64);
        for (event, outcome) in settled.iter().rev() {
            match outcome {
                Outcome::Done => {}
                Outcome::Retry => place.given_back.push_front(Arc::clone(event)),
                Outcome::Reject(reason) => {
                    place.dead.push_back(DeadLetter {
                        id: event.native_id.clone().unwrap_or_else(|| Name::clone(&event.id)),
                        event: EventMessage::clone(event),
                        group: self.spec.group(),
                        reason: reason.to_string(),
                        attempts: event.attempt.max(1),
                        time: SystemTime::now(),
                    });
                    if place.dead.len() > MAX_DEAD_LETTERS {
                        place.dead.pop_front();
                    }
                }
            }
        }
        drop(place);
        self.group.bell.notify_one();
        Ok(())
    }
}
