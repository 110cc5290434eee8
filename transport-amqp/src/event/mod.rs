//! Events: a topic exchange, a queue for each listener, and streams that keep the past.

mod codec;
mod dead_letters;
mod exchange;
mod group;
mod history;
mod lag;
mod prefetch;
mod send;
mod source;
mod watch;

use std::sync::Arc;

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use lightbus_core::{
    Error, ErrorKind, EventMessage, Name, Result, Subscription,
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
use exchange::Exchange;
use lag::InFlightCounts;
use source::EventSource;

const WHAT: &str = "the event transport";

/// Carries events over RabbitMQ.
pub struct AmqpEventTransport {
    handle: Handle,
    config: Arc<EventConfig>,
    exchange: Exchange,
    publisher: Arc<Publisher>,
    /// On its own channel, so that a message that the broker returns there is a dead letter.
    dead_letter_publisher: Arc<Publisher>,
    in_flight: InFlightCounts,
}

impl AmqpEventTransport {
    pub(crate) fn new(client: Arc<Client>, config: EventConfig) -> Self {
        Self {
            handle: Handle::new(WHAT, Arc::clone(&client)),
            publisher: Arc::new(Publisher::new(Arc::clone(&client))),
            dead_letter_publisher: Arc::new(Publisher::new(client)),
            config: Arc::new(config),
            exchange: Exchange::default(),
            in_flight: InFlightCounts::default(),
        }
    }
}

fn no_history() -> Error {
    Error::unsupported(NAME, "the past")
        .hint("Give the event transport the option `history` to have it kept")
}

#[async_trait]
impl EventTransport for AmqpEventTransport {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let sent = async {
            self.handle.client()?;
            send::send(&self.publisher, &self.config, &self.exchange, events).await
        };
        sent.await
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let client = self.handle.client()?;
        if spec.events.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no event to listen to"));
        }
        if spec.start != Start::New && self.config.history.is_none() {
            return Err(no_history());
        }
        let group = spec.group.name();
        // Another process may fill the queue for a long time.
        tokio::select! {
            ensured = group::ensure(client, &self.publisher, &self.config, &spec) => ensured?,
            () = self.handle.closing().closed() => return Err(Error::closed(WHAT)),
        }
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
        self.in_flight.add(&group, source.prefetch());
        Ok(Subscription::spawn(source, spec.flow))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let client = self.handle.client()?;
        if self.config.history.is_none() {
            return Err(no_history());
        }
        history::history(client, &self.publisher, &self.config, spec).await
    }

    async fn lag(&self, group: &GroupSpec, _events: &[EventSelector]) -> Result<Lag> {
        let client = self.handle.client()?;
        lag::lag(client, &self.config, &self.in_flight, &group.name()).await
    }

    async fn waiting_here(&self, spec: &ListenSpec) -> Result<u64> {
        // Which of the processes is the active one, RabbitMQ does not say: the others wait rightly.
        if self.config.single_active_consumer {
            return Ok(0);
        }
        Ok(self.lag(&spec.group, &spec.events).await?.waiting)
    }

    async fn forget(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<()> {
        group::remove(self.handle.client()?, &self.config, &group.name(), events).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

lightbus_core::impl_transport!(AmqpEventTransport {
    capabilities: |transport| crate::capabilities(transport.config.history.is_some())
        .ordered_by_key(transport.config.single_active_consumer),
    inspect: |transport| transport,
    on_close: |transport| {
        transport.publisher.close();
        transport.dead_letter_publisher.close();
    },
});

#[async_trait]
impl Inspect for AmqpEventTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client()?;
        let exchange = topology::exchange_of(&self.config);
        let mut locations = vec![locate::exchange(client, &exchange, api).await?];
        if self.config.history.is_some() {
            let stream = topology::history_of(&self.config, api);
            locations.push(locate::queue(client, "past events (a stream)", &stream).await?);
        }
        Ok(locations)
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let client = self.handle.client()?;
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
