//! Events: recorded, and counted until every listener of the test has settled them.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use lightbus_core::{
    EventMessage, Name, Outcome, Result, Subscription,
    transport::{DeadLetter, EventTransport, HistorySpec, Lag, LagSpec, ListenSpec},
};

use super::Tap;
use crate::testing::{
    flight::Work,
    hub::Hub,
    layer::delegate_transport,
    relay::{self, Pass},
};

#[derive(Debug)]
pub(super) struct Events {
    pub(super) inner: Arc<dyn EventTransport>,
    pub(super) tap: Tap,
}

delegate_transport!(Events);

#[async_trait]
impl EventTransport for Events {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let hub = &self.tap.hub;
        if !self.tap.outside {
            events.iter().try_for_each(|event| hub.check_event(event))?;
        }
        let mut sending = Sending::begin(hub, events);
        let sent = self.inner.send(events).await?;
        sending.confirmed = true;
        if !self.tap.outside {
            hub.record.fired(events);
        }
        Ok(sent)
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let subscription = self.inner.listen(spec.clone()).await?;
        let flow = spec.flow;
        let listening = Listening::new(&self.tap.hub, &self.inner, spec);
        Ok(relay::events(subscription, flow, listening))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        self.inner.history(spec).await
    }

    async fn lag(&self, spec: LagSpec) -> Result<Lag> {
        self.inner.lag(spec).await
    }

    async fn forget(&self, spec: LagSpec) -> Result<()> {
        self.inner.forget(spec).await
    }

    async fn dead_letters(
        &self,
        service: &str,
        listener: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.inner.dead_letters(service, listener, limit).await
    }

    async fn dead_letters_after(
        &self,
        service: &str,
        listener: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.inner.dead_letters_after(service, listener, after, limit).await
    }

    async fn remove_dead_letters(
        &self,
        service: &str,
        listener: &str,
        ids: &[Name],
    ) -> Result<usize> {
        self.inner.remove_dead_letters(service, listener, ids).await
    }

    async fn requeue_dead_letters(
        &self,
        service: &str,
        listener: &str,
        ids: &[Name],
    ) -> Result<usize> {
        let letters = self.inner.dead_letters(service, listener, usize::MAX).await?;
        let retried = letters.into_iter().filter(|letter| ids.contains(&letter.id));
        let events: Vec<_> = retried.map(|letter| letter.event).collect();
        let flight = &self.tap.hub.flight;
        // As with what is sent: it may be handled before this returns.
        flight.expect_again(&format!("{service}-{listener}"), &events);
        let done = self.inner.requeue_dead_letters(service, listener, ids).await;
        if done.is_err() {
            flight.unexpect(&events);
        }
        done
    }
}

/// Events on their way to the broker. Dropped without a confirmation, they may never arrive.
struct Sending<'a> {
    hub: &'a Hub,
    events: &'a [EventMessage],
    confirmed: bool,
    _tickets: Vec<crate::testing::flight::Ticket>,
}

impl<'a> Sending<'a> {
    fn begin(hub: &'a Hub, events: &'a [EventMessage]) -> Self {
        let tickets = events
            .iter()
            .map(|event| hub.flight.begin(Work::Fire, format!("{}.{}", event.api, event.event)));
        let tickets = tickets.collect();
        hub.flight.expect(events);
        Self { hub, events, confirmed: false, _tickets: tickets }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.confirmed {
            self.hub.flight.unexpect(self.events);
        }
    }
}

/// A process that listens, until its subscription ends.
struct Listening {
    hub: Arc<Hub>,
    group: Name,
    number: u64,
}

impl Listening {
    fn new(hub: &Arc<Hub>, transport: &Arc<dyn EventTransport>, spec: ListenSpec) -> Self {
        let group = spec.group();
        let number = hub.add_listener(Arc::clone(transport), spec);
        Self { hub: Arc::clone(hub), group, number }
    }
}

impl Pass<EventMessage> for Listening {
    fn arrived(&self, event: Arc<EventMessage>) -> Arc<EventMessage> {
        self.hub.flight.delivered(&self.group, &event);
        event
    }

    fn settled(&self, event: &EventMessage, outcome: &Outcome) {
        self.hub.flight.settled(&self.group, &event.id, *outcome != Outcome::Retry);
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.hub.remove_listener(self.number);
    }
}
