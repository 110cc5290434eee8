//! Events: topics with consumer groups.

mod dead;
mod history;
mod letters;
mod record;
mod source;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use lightbus_core::{
    Capabilities, Error, ErrorKind, EventMessage, Name, Result, Subscription, Transport,
    transport::{
        DeadLetter, DeadLetters, EventSelector, EventTransport, Finding, GroupSpec, HistorySpec,
        Inspect, Lag, ListenSpec, Location,
    },
};

use crate::{
    EventConfig, NAME, TopicUse,
    client::{Client, Handle},
    diagnose,
    group::MemberSpec,
    inspect::{self, Readers},
    topic::{TopicSpec, legal},
};
use letters::Letters;
use source::{DeadLetterTopic, EventSource};

const WHAT: &str = "the event transport";

/// Carries events over Kafka topics.
pub struct KafkaEventTransport {
    handle: Handle,
    config: EventConfig,
    spec: TopicSpec,
    dead_spec: TopicSpec,
}

impl KafkaEventTransport {
    pub(crate) fn new(client: Arc<Client>, config: EventConfig) -> Self {
        let plain =
            TopicSpec::new(&config.topics()).with("message.timestamp.type", "LogAppendTime");
        let forever = |time: Option<crate::Seconds>| time.map(|time| time.0);
        let dead_spec = match forever(config.dead_letter_retention) {
            // Their order is that of one partition.
            None => plain.clone().one_partition().with("retention.ms", "-1"),
            some => plain.clone().one_partition().kept_for(some),
        };
        let spec = plain.kept_for(forever(config.retention));
        Self { handle: Handle::new(client), config, spec, dead_spec }
    }

    /// The topic of an event, or of all events of an API.
    fn topic(&self, api: &str, event: Option<&str>) -> Result<Name> {
        let prefix = &self.config.prefix;
        match (self.config.topic_use, event) {
            (TopicUse::PerApi, _) => Ok(format!("{prefix}{}.events", legal(api)).into()),
            (TopicUse::PerEvent, Some(event)) => {
                Ok(format!("{prefix}{}.events.{}", legal(api), legal(event)).into())
            }
            (TopicUse::PerEvent, None) => Err(Error::new(
                ErrorKind::Config,
                format!("all events of `{api}` cannot be meant with `topic_use: per_event`"),
            )
            .hint("Name the events one by one, or let all processes use `topic_use: per_api`")),
        }
    }

    /// The topics that hold these events.
    fn topics(&self, events: &[EventSelector]) -> Result<Vec<Name>> {
        let mut topics: Vec<Name> = Vec::new();
        for selector in events {
            let topic = self.topic(&selector.api, selector.event.as_deref())?;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        if topics.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no event to listen to"));
        }
        Ok(topics)
    }

    /// The name of a group, as people know it.
    fn group(&self, group: &GroupSpec) -> String {
        let service = self.config.service_name.as_deref().unwrap_or(&group.service);
        GroupSpec::new(service, Name::clone(&group.listener)).to_string()
    }

    /// The name of a group, as Kafka knows it.
    fn full_group(&self, group: &GroupSpec) -> String {
        format!("{}{}", self.config.prefix, self.group(group))
    }

    fn dead_letter_topic(&self, group: &GroupSpec) -> Name {
        let group = legal(&self.group(group));
        format!("{}{group}.dead_letters", self.config.prefix).into()
    }

    fn reader_group(&self) -> String {
        format!("{}lightbus.readers", self.config.prefix)
    }
}

#[async_trait]
impl EventTransport for KafkaEventTransport {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        self.fire(events).await.map_err(|error| {
            let names = events.first().map(|event| (&*event.api, &*event.event));
            let (api, event) = names.unwrap_or_default();
            match events.len() {
                1 => error.during(format!("firing {api}.{event}")),
                count => error.during(format!("firing {count} events, the first {api}.{event}")),
            }
        })
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let group = self.group(&spec.group);
        self.start(spec).await.map_err(|error| error.during(format!("listening as {group}")))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let api = Name::clone(&spec.events.api);
        self.past(spec).map_err(|error| error.during(format!("reading the history of {api}")))
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        self.behind(group, events)
            .await
            .map_err(|error| error.during(format!("measuring the lag of {}", self.group(group))))
    }

    async fn forget(&self, group: &GroupSpec, _events: &[EventSelector]) -> Result<()> {
        let group = self.full_group(group);
        let client = self.handle.client(WHAT)?;
        client
            .forget_group(&group)
            .await
            .map_err(|error| error.during(format!("forgetting the listener {group}")))
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

#[async_trait]
impl DeadLetters for KafkaEventTransport {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.letters(group)?.list(after, limit).await
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        self.letters(group)?.remove(ids).await
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        self.letters(group)?.give_back(ids).await
    }
}

impl KafkaEventTransport {
    async fn fire(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let client = self.handle.client(WHAT)?;
        let mut topics: Vec<Name> = Vec::with_capacity(events.len());
        for (index, event) in events.iter().enumerate() {
            let previous = index.checked_sub(1).map(|before| &events[before]);
            let same = previous
                .is_some_and(|before| before.api == event.api && before.event == event.event);
            let topic = match (same, topics.last()) {
                (true, Some(topic)) => Name::clone(topic),
                _ => {
                    let topic = self.topic(&event.api, Some(&event.event))?;
                    client.topic(&topic, &self.spec).await?;
                    topic
                }
            };
            topics.push(topic);
        }
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let records = events
            .iter()
            .zip(&topics)
            .map(|(event, topic)| record::outgoing(topic, event))
            .collect();
        let placed = client.send(records).await?;
        Ok(topics
            .iter()
            .zip(placed)
            .map(|(topic, placed)| record::native_id(topic, placed))
            .collect())
    }

    async fn start(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let client = self.handle.client(WHAT)?;
        let topics = self.topics(&spec.events)?;
        for topic in &topics {
            client.topic(topic, &self.spec).await?;
        }
        let group = self.full_group(&spec.group);
        let settings = client.settings();
        let config = &self.config;
        let member = MemberSpec {
            config: settings.member(&group, config.session_timeout.0, config.fetch_wait.0),
            broker: settings.broker.clone(),
            group,
            topics,
            start: spec.start,
            timeout: settings.timeout,
            revoke_timeout: config.revoke_timeout.0,
            release_after: None,
        };
        let dead = DeadLetterTopic {
            topic: self.dead_letter_topic(&spec.group),
            spec: self.dead_spec.clone(),
        };
        let mut flow = spec.flow;
        flow.batch = flow.batch.min(config.batch_size.max(1));
        let source =
            EventSource::start(client, self.handle.closing(), member, spec.events, dead).await?;
        Ok(Subscription::spawn(source, flow))
    }

    fn past(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let client = self.handle.client(WHAT)?;
        let topic = self.topic(&spec.events.api, spec.events.event.as_deref())?;
        Ok(history::history(Arc::clone(client), self.reader_group(), topic, spec))
    }

    async fn behind(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        let client = self.handle.client(WHAT)?;
        let topics = self.topics(events)?;
        crate::lag::lag(client, &topics, self.full_group(group)).await
    }

    fn letters(&self, group: &GroupSpec) -> Result<Letters> {
        Ok(Letters {
            client: Arc::clone(self.handle.client(WHAT)?),
            reader_group: self.reader_group(),
            topic: self.dead_letter_topic(group),
            group: self.group(group).into(),
            full_group: self.full_group(group),
        })
    }
}

#[async_trait]
impl Transport for KafkaEventTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn broker(&self) -> String {
        self.handle.broker()
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities()
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    async fn open(&self) -> Result<()> {
        self.handle.open(WHAT).await
    }

    async fn close(&self) -> Result<()> {
        self.handle.close();
        Ok(())
    }
}

#[async_trait]
impl Inspect for KafkaEventTransport {
    async fn locate(&self, api: &str, member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client(WHAT)?;
        if member.is_none() && self.config.topic_use == TopicUse::PerEvent {
            // Which events there are stands in the schema, not here.
            return Ok(Vec::new());
        }
        let topic = self.topic(api, member)?;
        let listeners = Readers::Any(self.config.prefix.clone());
        Ok(vec![inspect::topic(client, "events (a topic)", &topic, listeners).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client(WHAT)?, &self.config.prefix).await
    }
}

impl fmt::Debug for KafkaEventTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaEventTransport")
            .field("broker", &self.handle.broker())
            .finish_non_exhaustive()
    }
}
