//! Events: recorded, and counted until every listener of the test has settled them.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use lightbus_core::{
    EventMessage, Name, Outcome, Result, Subscription,
    transport::{
        DeadLetter, DeadLetters, EventSelector, EventTransport, GroupSpec, HistorySpec, Lag,
        ListenSpec,
    },
};

use super::Spy;
use crate::testing::{
    in_flight::Work,
    intercept::{self, Interceptor},
    layer::delegate_transport,
    test_state::TestState,
};

#[derive(Debug)]
pub(super) struct Events {
    pub(super) inner: Arc<dyn EventTransport>,
    pub(super) spy: Spy,
}

delegate_transport!(Events);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl EventTransport for Events {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let state = &self.spy.state;
        if !self.spy.outside {
            events.iter().try_for_each(|event| state.check_event(event))?;
        }
        let mut sending = Sending::begin(state, events);
        let sent = self.inner.send(events).await?;
        sending.confirmed = true;
        if !self.spy.outside {
            state.record.fired(events);
        }
        Ok(sent)
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let subscription = self.inner.listen(spec.clone()).await?;
        let flow = spec.flow;
        let listening = SpiedListener::new(&self.spy.state, &self.inner, spec);
        Ok(intercept::events(subscription, flow, listening))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        self.inner.history(spec).await
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        self.inner.lag(group, events).await
    }

    async fn waiting_here(&self, spec: &ListenSpec) -> Result<u64> {
        self.inner.waiting_here(spec).await
    }

    async fn forget(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<()> {
        self.inner.forget(group, events).await
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        self.inner.dead_letters().map(|_| self as &dyn DeadLetters)
    }
}

#[async_trait]
impl DeadLetters for Events {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.inner.require_dead_letters()?.list(group, after, limit).await
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        self.inner.require_dead_letters()?.remove(group, ids).await
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let inner = self.inner.require_dead_letters()?;
        let letters = inner.list(group, None, usize::MAX).await?;
        let requeued = letters.into_iter().filter(|letter| ids.contains(&letter.id));
        let events: Vec<_> = requeued.map(|letter| letter.event).collect();
        let in_flight = &self.spy.state.in_flight;
        // Before, as when sending: they may be handled before this returns.
        in_flight.expect_again(&group.name(), &events);
        let done = inner.requeue(group, ids).await;
        if done.is_err() {
            in_flight.unexpect(&events);
        }
        done
    }
}

/// Events being sent. If dropped before they are confirmed, they may never arrive.
struct Sending<'a> {
    state: &'a TestState,
    events: &'a [EventMessage],
    confirmed: bool,
    _tickets: Vec<crate::testing::in_flight::Ticket>,
}

impl<'a> Sending<'a> {
    fn begin(state: &'a TestState, events: &'a [EventMessage]) -> Self {
        let tickets = events.iter().map(|event| {
            state.in_flight.begin(Work::Fire, format!("{}.{}", event.api, event.event))
        });
        let tickets = tickets.collect();
        state.in_flight.expect(events);
        Self { state, events, confirmed: false, _tickets: tickets }
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.confirmed {
            self.state.in_flight.unexpect(self.events);
        }
    }
}

/// A process that listens, until its subscription ends.
struct SpiedListener {
    state: Arc<TestState>,
    group: Name,
    number: u64,
}

impl SpiedListener {
    fn new(state: &Arc<TestState>, transport: &Arc<dyn EventTransport>, spec: ListenSpec) -> Self {
        let group = spec.group.name();
        let number = state.add_listener(Arc::clone(transport), spec);
        Self { state: Arc::clone(state), group, number }
    }
}

impl Interceptor<EventMessage> for SpiedListener {
    fn arrived(&self, event: Arc<EventMessage>) -> Arc<EventMessage> {
        self.state.in_flight.delivered(&self.group, &event);
        event
    }

    fn settled(&self, event: &EventMessage, outcome: &Outcome) {
        self.state.in_flight.settled(&self.group, &event.id, *outcome != Outcome::Retry);
    }
}

impl Drop for SpiedListener {
    fn drop(&mut self) {
        self.state.remove_listener(self.number);
    }
}
