//! Events: a topic exchange, a queue for each listener, and streams that keep the past.

mod codec;
mod dead_letters;
mod group;
mod history;
mod lag;
mod send;
mod source;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use lightbus_core::{
    Capabilities, Error, ErrorKind, EventMessage, Name, Result, Subscription, Transport,
    transport::{
        DeadLetters, EventSelector, EventTransport, Finding, GroupSpec, HistorySpec, Inspect, Lag,
        ListenSpec, Location, Start,
    },
};

use crate::{
    EventConfig, NAME, QueueType,
    client::{Client, Handle},
    diagnose, locate,
    publisher::Publisher,
    topology,
};
pub(crate) use codec::Raw;
use lag::InFlightCounts;
use source::EventSource;

const WHAT: &str = "the event transport";

/// Carries events over RabbitMQ.
pub struct AmqpEventTransport {
    handle: Handle,
    config: Arc<EventConfig>,
    publisher: Arc<Publisher>,
    /// On its own channel, so that a message that the broker returns there is a dead letter.
    dead_letter_publisher: Arc<Publisher>,
    in_flight: InFlightCounts,
}

impl AmqpEventTransport {
    pub(crate) fn new(client: Arc<Client>, config: EventConfig) -> Self {
        Self {
            handle: Handle::new(Arc::clone(&client)),
            publisher: Arc::new(Publisher::new(Arc::clone(&client))),
            dead_letter_publisher: Arc::new(Publisher::new(client)),
            config: Arc::new(config),
            in_flight: InFlightCounts::default(),
        }
    }

    async fn start(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let client = self.handle.client(WHAT)?;
        if spec.events.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no event to listen to"));
        }
        if spec.start != Start::New && self.config.history.is_none() {
            return Err(no_history());
        }
        let group = spec.group.name();
        group::ensure(client, &self.publisher, &self.config, &spec).await?;
        let source = EventSource::new(
            client,
            self.handle.closing(),
            &self.publisher,
            &self.dead_letter_publisher,
            &self.config,
            self.in_flight.of(&group),
            &spec,
        );
        source.start().await?;
        Ok(Subscription::spawn(source, spec.flow))
    }

    async fn past(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let client = self.handle.client(WHAT)?;
        if self.config.history.is_none() {
            return Err(no_history());
        }
        history::history(client, &self.publisher, &self.config, spec).await
    }
}

fn no_history() -> Error {
    Error::unsupported(NAME, "reading past events")
        .hint("Set the option `history` of the event transport to keep past events")
}

#[async_trait]
impl EventTransport for AmqpEventTransport {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let sent = async {
            self.handle.client(WHAT)?;
            send::send(&self.publisher, &self.config, events).await
        };
        sent.await.map_err(|error| {
            let names = events.first().map(|event| (&*event.api, &*event.event));
            let (api, event) = names.unwrap_or_default();
            match events.len() {
                1 => error.during(format!("firing {api}.{event}")),
                count => error.during(format!("firing {count} events, the first {api}.{event}")),
            }
        })
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let group = spec.group.name();
        self.start(spec).await.map_err(|error| error.during(format!("listening as {group}")))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let api = Name::clone(&spec.events.api);
        self.past(spec).await.map_err(|error| error.during(format!("reading the history of {api}")))
    }

    async fn lag(&self, group: &GroupSpec, _events: &[EventSelector]) -> Result<Lag> {
        let measured = async {
            let client = self.handle.client(WHAT)?;
            lag::lag(client, &self.config, &self.in_flight, &group.name()).await
        };
        measured.await.map_err(|error| error.during(format!("measuring the lag of {group}")))
    }

    async fn forget(&self, group: &GroupSpec, _events: &[EventSelector]) -> Result<()> {
        let forgotten =
            async { group::remove(self.handle.client(WHAT)?, &self.config, &group.name()).await };
        forgotten.await.map_err(|error| error.during(format!("forgetting {group}")))
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

#[async_trait]
impl Transport for AmqpEventTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn broker(&self) -> String {
        self.handle.broker()
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities(self.config.history.is_some())
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    async fn open(&self) -> Result<()> {
        self.handle.open(WHAT).await
    }

    async fn close(&self) -> Result<()> {
        self.handle.close();
        self.publisher.close();
        self.dead_letter_publisher.close();
        Ok(())
    }
}

#[async_trait]
impl Inspect for AmqpEventTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client(WHAT)?;
        let exchange = topology::exchange_of(&self.config);
        let mut places = vec![locate::exchange(client, &exchange, api).await?];
        if self.config.history.is_some() {
            let stream = topology::history_of(&self.config, api);
            places.push(locate::queue(client, "past events (a stream)", &stream).await?);
        }
        Ok(places)
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let client = self.handle.client(WHAT)?;
        let mut findings = diagnose::diagnose(client, &self.publisher).await?;
        let exchange = topology::exchange_of(&self.config);
        findings.push(diagnose::has_exchange(client, &exchange).await?);
        if self.config.queue_type == QueueType::Classic {
            findings.push(Finding::warning(
                "listeners have classic queues (`queue_type: classic`)",
                "a queue is on one node: losing that node loses its messages",
                "remove `queue_type`, and delete the queues when they are empty",
            ));
        }
        Ok(findings)
    }
}

impl fmt::Debug for AmqpEventTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpEventTransport")
            .field("broker", &self.handle.broker())
            .finish_non_exhaustive()
    }
}
