//! Events: a channel for each API, read by any number of groups.

mod dead_letters;
mod history;
mod source;

use std::sync::Arc;

use async_trait::async_trait;
use futures_core::stream::BoxStream;

use super::{
    Broker, Channel, ChannelKind, ConsumerSpec, Message,
    consume::Member,
    contract::check_start,
    safe_name,
    shared::{Handle, Shared},
    wire,
};
use crate::{
    Error, ErrorKind, EventMessage, Merge, Name, Result, Retry, Subscription, User,
    transport::{
        DeadLetters, EventSelector, EventTransport, GroupSpec, HistorySpec, Lag, ListenSpec,
    },
};
use source::EventSource;

/// Carries events over a [`Broker`].
pub struct BrokerEventTransport<B: Broker> {
    handle: Handle<B>,
}

super::transport!(BrokerEventTransport);

impl<B: Broker> BrokerEventTransport<B> {
    pub(super) fn new(user: User<Shared<B>>) -> Self {
        Self { handle: Handle::new(user, "the event transport") }
    }

    async fn shut(&self) {
        self.handle.close(async {}).await;
    }

    async fn start(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let shared = self.handle.open_shared()?;
        if spec.events.is_empty() {
            return Err(Error::new(ErrorKind::Config, "there is no event to listen to"));
        }
        check_start(B::NAME, shared.broker.capabilities(), spec.start)?;
        let flow = spec.flow;
        let group = safe_name(&spec.group.name());
        let process = safe_name(&spec.process);
        let spec = Arc::new(spec);
        let mut sources = Vec::new();
        for api in apis(&spec.events) {
            let consumer = ConsumerSpec {
                channel: channel(api),
                group: Name::clone(&group),
                process: Name::clone(&process),
                start: spec.start,
            };
            let member = Member::join(&self.handle, consumer, "taking events").await?;
            let shared = Arc::clone(shared);
            sources.push(EventSource::new(member, shared, Name::clone(api), Arc::clone(&spec)));
        }
        Ok(match sources.pop() {
            Some(source) if sources.is_empty() => Subscription::spawn(source, flow),
            source => {
                Subscription::spawn(Merge::new(sources.into_iter().chain(source).collect()), flow)
            }
        })
    }
}

#[async_trait]
impl<B: Broker> EventTransport for BrokerEventTransport<B> {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let operation = match events {
            [] => "firing no events".to_owned(),
            [event] => format!("firing {}.{}", event.api, event.event),
            [first, ..] => {
                let count = events.len();
                format!("firing {count} events, the first {}.{}", first.api, first.event)
            }
        };
        let send = async |shared: &Shared<B>| {
            if events.is_empty() {
                return Ok(Vec::new());
            }
            let messages = events.iter().map(|event| {
                let payload = wire::encode_event(event, None)?;
                Ok(Message { key: event.key.clone(), ..Message::new(channel(&event.api), payload) })
            });
            let ids = shared.publish(messages.collect::<Result<_>>()?).await?;
            if ids.len() != events.len() {
                return Err(Error::new(
                    ErrorKind::Unexpected,
                    "the broker did not name each event",
                )
                .retry(Retry::MayDuplicate));
            }
            Ok(ids)
        };
        self.handle.during(operation, send).await
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let operation = format!("listening as {}", spec.group);
        self.start(spec).await.map_err(|error| error.during(operation))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let operation = format!("reading the history of {}", spec.events.api);
        let open = self.handle.open_shared();
        let shared = open.map_err(|error| error.during(operation.clone()))?;
        if !shared.broker.capabilities().history {
            return Err(Error::unsupported(B::NAME, "reading the history of events"));
        }
        Ok(history::history(Arc::clone(shared), spec, operation))
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        let measure = async |shared: &Shared<B>| {
            if !shared.broker.capabilities().lag {
                return Err(Error::unsupported(B::NAME, "measuring the lag of a listener"));
            }
            let mut sum = Lag::default();
            for api in apis(events) {
                let (channel, group) = (channel(api), safe_name(&group.name()));
                let lag = shared.limit(shared.broker.lag(&channel, &group)).await?;
                sum.waiting += lag.waiting;
                sum.pending += lag.pending;
            }
            Ok(sum)
        };
        self.handle.during(format!("measuring the lag of {group}"), measure).await
    }

    async fn forget(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<()> {
        let forget = async |shared: &Shared<B>| {
            for api in apis(events) {
                let (channel, group) = (channel(api), safe_name(&group.name()));
                shared.limit(shared.broker.forget(&channel, &group)).await?;
            }
            Ok(())
        };
        self.handle.during(format!("forgetting {group}"), forget).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        Some(self)
    }
}

fn channel(api: &str) -> Channel {
    Channel { kind: ChannelKind::Events, name: safe_name(api) }
}

/// The APIs of these events, each once.
fn apis(events: &[EventSelector]) -> Vec<&Name> {
    let mut apis: Vec<_> = events.iter().map(|selector| &selector.api).collect();
    apis.sort_unstable();
    apis.dedup();
    apis
}
