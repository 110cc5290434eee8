//! Events: topics with consumer groups.

mod codec;
mod dead_letters;
mod group;
mod history;
mod lag;
mod send;
mod source;

use std::sync::Arc;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use lightbus_core::{
    EventMessage, Name, Result, Subscription,
    transport::{
        DeadLetters, EventSelector, EventTransport, Finding, GroupSpec, HistorySpec, Inspect, Lag,
        ListenSpec, Location,
    },
};

use crate::{
    EventConfig, TopicUse,
    client::{Client, Handle},
    diagnose,
    group::Members,
    locate::{self, Readers},
    topic::TopicSpec,
};
pub(crate) use lag::{behind, lag, lag_in};
use source::{DeadLetterTopic, EventSource};

const WHAT: &str = "the event transport";

/// Carries events over Kafka topics.
pub struct KafkaEventTransport {
    handle: Handle,
    config: EventConfig,
    spec: TopicSpec,
    dead_spec: TopicSpec,
    members: Members,
}

impl KafkaEventTransport {
    pub(crate) fn new(client: Arc<Client>, config: EventConfig) -> Self {
        let plain =
            TopicSpec::new(&config.topics()).with("message.timestamp.type", "LogAppendTime");
        let forever = |time: Option<crate::Seconds>| time.map(|time| time.0);
        let dead_spec = match forever(config.dead_letter_retention) {
            // One partition, because dead letters are listed in order.
            None => plain.clone().one_partition().with("retention.ms", "-1"),
            some => plain.clone().one_partition().kept_for(some),
        };
        let spec = plain.kept_for(forever(config.retention));
        let members = Members::default();
        Self { handle: Handle::new(WHAT, client), config, spec, dead_spec, members }
    }
}

#[async_trait]
impl EventTransport for KafkaEventTransport {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        self.fire(events).await
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let client = self.handle.client()?;
        let topics = self.topics(&spec.events)?;
        for topic in &topics {
            client.topic(topic, &self.spec).await?;
        }
        let member = self.member(client, &spec, topics);
        let dead = DeadLetterTopic {
            topic: self.dead_letter_topic(&spec.group),
            spec: self.dead_spec.clone(),
        };
        let mut flow = spec.flow;
        flow.batch = flow.batch.min(self.config.batch_size.max(1));
        let group = member.group.clone();
        let source =
            EventSource::start(client, self.handle.closing(), member, spec.events, dead).await?;
        self.members.add(group, source.assignments());
        Ok(Subscription::spawn(source, flow))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let client = self.handle.client()?;
        let topic = self.topic(&spec.events.api, spec.events.event.as_deref())?;
        Ok(history::history(Arc::clone(client), self.reader_group(), topic, spec))
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        let client = self.handle.client()?;
        let topics = self.topics(events)?;
        lag(client, &topics, self.full_group(group)).await
    }

    async fn waiting_here(&self, spec: &ListenSpec) -> Result<u64> {
        let group = self.full_group(&spec.group);
        let partitions = self.members.partitions_of(&group).unwrap_or_default();
        Ok(lag_in(self.handle.client()?, partitions, group).await?.waiting)
    }

    async fn forget(&self, group: &GroupSpec, _events: &[EventSelector]) -> Result<()> {
        let group = self.full_group(group);
        group::delete(self.handle.client()?, &group).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

lightbus_core::impl_transport!(KafkaEventTransport {
    capabilities: |_| crate::CAPABILITIES,
    inspect: |transport| transport,
});

#[async_trait]
impl Inspect for KafkaEventTransport {
    async fn locate(&self, api: &str, member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client()?;
        if member.is_none() && self.config.topic_use == TopicUse::PerEvent {
            // Which events an API has is known from its schema, not here.
            return Ok(Vec::new());
        }
        let topic = self.topic(api, member)?;
        let listeners = Readers::Any(self.config.prefix.clone());
        Ok(vec![locate::topic(client, "events (a topic)", &topic, listeners).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client()?, &self.config.prefix).await
    }
}
