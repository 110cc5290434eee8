//! Sending events that are delayed, stored twice, or fail because the broker is unavailable. Confirmed
//! events are stored.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use lightbus_core::{
    EventMessage, Name, Result, Retry, Subscription,
    transport::{
        DeadLetters, EventSelector, EventTransport, GroupSpec, HistorySpec, Lag, ListenSpec,
    },
};

use super::{At, Fault, Faults, away, listening::FaultyListener, path};
use crate::testing::layer::delegate_transport;

#[derive(Debug)]
pub(super) struct Events {
    pub(super) inner: Arc<dyn EventTransport>,
    pub(super) faults: Faults,
}

delegate_transport!(Events);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl EventTransport for Events {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let paths: Vec<_> = events.iter().map(|event| path(&event.api, &event.event)).collect();
        let numbers = events.iter().zip(&paths);
        let numbers: Vec<_> =
            numbers.map(|(event, path)| self.faults.numbers.of(&event.id, path)).collect();
        // Events that are sent together share the faults of the first.
        let (Some(path), Some(number)) = (paths.first(), numbers.first().copied()) else {
            return self.inner.send(events).await;
        };
        let at = |what| At { what, path, group: "", number, attempt: 1 };
        if self.faults.happens(Fault::Disconnect, &at("event")) {
            return Err(away(Retry::MayDuplicate));
        }
        self.faults.hold_up(&at("event")).await;
        let sent = self.inner.send(events).await?;
        if self.faults.happens(Fault::Duplicate, &at("event")) {
            self.inner.send(events).await?;
        }
        if self.faults.happens(Fault::Disconnect, &at("confirming the event")) {
            return Err(away(Retry::MayDuplicate));
        }
        Ok(sent)
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let (flow, group) = (spec.flow, spec.group.name());
        let subscription = self.inner.listen(spec).await?;
        let can = self.inner.capabilities();
        // More than order by key, where that is all there is: never less.
        let ordered = can.ordered || can.ordered_by_key;
        let source = FaultyListener::new(subscription, self.faults.clone(), group, ordered);
        Ok(Subscription::spawn(source, flow.fixed()))
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
        self.inner.dead_letters()
    }
}
