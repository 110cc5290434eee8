//! Events: streams with consumer groups.

mod codec;
mod dead_letters;
mod deferred;
mod entry;
mod group;
mod history;
mod in_flight;
mod lag;
mod lease;
mod loss;
mod presence;
mod read;
mod reclaim;
mod send;
mod source;

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use lightbus_core::{
    Error, ErrorKind, EventMessage, Name, Result, Subscription,
    transport::{
        DeadLetters, EventSelector, EventTransport, Finding, Group, GroupSpec, HistorySpec,
        Inspect, Lag, ListenSpec, Location,
    },
};

use crate::{
    EventConfig, StreamUse,
    batcher::Batcher,
    client::{Client, Handle},
    diagnose, locate,
};
use in_flight::InFlightSets;
use presence::compare_presence;
use reclaim::Reclaim;
use send::{EventSender, Outgoing};
use source::{EventSource, Listener, Stream};

const WHAT: &str = "the event transport";

/// Carries events over Redis streams.
pub struct RedisEventTransport {
    handle: Handle,
    config: EventConfig,
    events: Batcher<EventSender>,
    in_flight: InFlightSets,
    /// Tells this process from others of its name.
    token: String,
}

impl RedisEventTransport {
    pub(crate) fn new(client: Arc<Client>, config: EventConfig) -> Self {
        Self {
            handle: Handle::new(WHAT, Arc::clone(&client)),
            events: Batcher::new(EventSender::new(client)),
            in_flight: InFlightSets::default(),
            token: format!("{:016x}", RandomState::new().build_hasher().finish()),
            config,
        }
    }

    /// Returns the streams of these events, each with its API.
    fn streams(&self, events: &[EventSelector]) -> Result<Vec<(String, Name)>> {
        let mut streams: Vec<(String, Name)> = Vec::new();
        for selector in events {
            let key = match (self.config.stream_use, selector.event.as_deref()) {
                (StreamUse::PerApi, _) => stream_key(&selector.api, "*"),
                (StreamUse::PerEvent, Some(event)) => stream_key(&selector.api, event),
                (StreamUse::PerEvent, None) => {
                    return Err(Error::new(
                        ErrorKind::Config,
                        format!("with `stream_use: per_event`, all events of `{}` cannot be selected at once", selector.api),
                    )
                    .hint("Name the events one by one, or let all processes use `stream_use: per_api`"));
                }
            };
            if streams.iter().all(|(known, _)| *known != key) {
                streams.push((key, Name::clone(&selector.api)));
            }
        }
        if streams.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no event to listen to"));
        }
        Ok(streams)
    }

    /// Returns the group as Redis knows it: the configuration may name another service.
    fn spec_of(&self, group: &GroupSpec) -> GroupSpec {
        let service = self.config.service_name.as_deref().unwrap_or(&group.service);
        GroupSpec::new(service, Name::clone(&group.listener))
    }

    fn group(&self, group: &GroupSpec) -> String {
        self.spec_of(group).to_string()
    }

    fn command(&self, event: &EventMessage) -> redis::Cmd {
        let stream = match self.config.stream_use {
            StreamUse::PerApi => stream_key(&event.api, "*"),
            StreamUse::PerEvent => stream_key(&event.api, &event.event),
        };
        codec::xadd(&stream, self.config.max_stream_length, event)
    }

    fn reclaim(&self) -> Reclaim {
        let after = self.config.acknowledgement_timeout.0;
        Reclaim {
            after,
            interval: self.config.reclaim_interval.map_or(after, |interval| interval.0),
            batch: self
                .config
                .reclaim_batch_size
                .unwrap_or_else(|| self.config.batch_size.saturating_mul(10).min(1000))
                .max(1),
        }
    }
}

#[async_trait]
impl EventTransport for RedisEventTransport {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        self.handle.client()?;
        let outgoing = match events {
            [] => return Ok(Vec::new()),
            [event] => Outgoing::One(self.command(event)),
            events => Outgoing::Many(events.iter().map(|event| self.command(event)).collect()),
        };
        self.events.send(outgoing).await
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let client = self.handle.client()?;
        let streams = self.streams(&spec.events)?;
        let group = self.group(&spec.group);
        let consumer =
            self.config.consumer_name.clone().unwrap_or_else(|| spec.process.to_string());
        let start = group::position(spec.start);
        let owner = self.in_flight.owner();
        let mut last = Vec::with_capacity(streams.len());
        let mut listened = Vec::with_capacity(streams.len());
        for (key, _) in streams {
            last.push(group::ensure(client, &key, &group, &consumer, &start).await?);
            if !self.config.consumer_ttl.0.is_zero() {
                let own = (group.as_str(), consumer.as_str());
                let cleaned = group::clean_up(client, &key, own, self.config.consumer_ttl.0).await;
                if let Err(error) = cleaned {
                    tracing::debug!(%error, stream = key, "idle consumers could not be removed");
                }
            }
            listened.push(Stream { in_flight: self.in_flight.of(&group, &key, owner), key });
        }
        let mut flow = spec.flow;
        flow.batch = flow.batch.min(self.config.batch_size.max(1));
        let (closing, reclaim) = (self.handle.closing(), self.reclaim());
        let leaves = !self.config.consumer_ttl.0.is_zero();
        let presence = Arc::new(compare_presence(
            Arc::clone(client),
            &self.spec_of(&spec.group),
            &consumer,
            self.token.clone(),
            reclaim.interval,
        ));
        #[cfg(feature = "cluster")]
        if client.is_cluster() && listened.len() > 1 {
            let mut sources = Vec::with_capacity(listened.len());
            for (stream, last) in listened.into_iter().zip(last) {
                let (group, consumer) = (group.clone(), consumer.clone());
                let events = spec.events.clone();
                let listener = Listener { group, consumer, events, streams: vec![stream], leaves };
                let source =
                    EventSource::start(client, closing, listener, reclaim, &[last]).await?;
                sources.push(source.with_presence(&presence));
            }
            return Ok(Subscription::spawn(lightbus_core::Merge::new(sources), flow));
        }
        let listener = Listener { group, consumer, events: spec.events, streams: listened, leaves };
        let source = EventSource::start(client, closing, listener, reclaim, &last).await?;
        Ok(Subscription::spawn(source.with_presence(&presence), flow))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let client = self.handle.client()?;
        let Some((stream, _)) = self.streams(std::slice::from_ref(&spec.events))?.pop() else {
            return Err(Error::new(ErrorKind::Config, "there is no event to look for"));
        };
        Ok(history::history(Arc::clone(client), stream, spec))
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        let client = self.handle.client()?;
        lag::lag(client, &self.streams(events)?, &self.group(group)).await
    }

    async fn forget(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<()> {
        let group = self.group(group);
        let client = self.handle.client()?;
        for (stream, _) in self.streams(events)? {
            group::destroy(client, &stream, &group).await?;
        }
        Ok(())
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

lightbus_core::impl_transport!(RedisEventTransport {
    capabilities: |_| crate::CAPABILITIES,
    inspect: |transport| transport,
});

#[async_trait]
impl Inspect for RedisEventTransport {
    async fn locate(&self, api: &str, member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client()?;
        let selector = match member {
            Some(event) => EventSelector::one(api, event),
            None if self.config.stream_use == StreamUse::PerApi => EventSelector::all(api),
            // Which events an API has is known from its schema, not here.
            None => return Ok(Vec::new()),
        };
        let mut locations = Vec::new();
        for (stream, _) in self.streams(&[selector])? {
            let mut groups = Vec::new();
            for info in group::list(client, &stream).await? {
                let waiting = lag::known(client, &stream, &info).await?;
                groups.push(Group::new(info.name, waiting, info.pending));
            }
            locations.push(locate::stream(client, &stream, groups).await?);
        }
        Ok(locations)
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client()?).await
    }
}

/// Returns the stream of an event, or of all events of an API if `event` is an asterisk.
fn stream_key(api: &str, event: &str) -> String {
    format!("{api}.{event}:stream")
}
