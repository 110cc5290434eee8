//! Isolating tests that share a broker: the names of APIs and services have a prefix on the wire.
//!
//! The code under test does not see the prefix, and the broker need not be empty.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream::BoxStream};
use lightbus_core::{
    EventMessage, Name, Result, RpcMessage, Subscription,
    transport::{
        DeadLetter, DeadLetters, EventSelector, EventTransport, Finding, GroupSpec, HistorySpec,
        Inspect, Lag, ListenSpec, Location, ResultTransport, RpcTransport, SchemaTransport,
        ServeSpec,
    },
};
use serde_json::value::RawValue;

use super::{
    intercept::{self, Interceptor},
    layer::{Layer, delegate_transport},
};

/// The layer that adds and removes the prefix, which ends with a dot.
#[derive(Clone, Debug)]
pub(super) struct Isolate {
    prefix: Name,
}

impl Isolate {
    /// Creates a unique prefix.
    pub(super) fn fresh() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        Self { prefix: format!("test-{:x}-{random:016x}.", std::process::id()).into() }
    }

    fn put(&self, name: &str) -> Name {
        format!("{}{name}", self.prefix).into()
    }

    fn strip<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(&*self.prefix)
    }

    /// Removes the prefix, if the name has it.
    fn take(&self, name: &Name) -> Name {
        self.strip(name).map_or_else(|| Name::clone(name), Name::from)
    }

    fn take_event(&self, event: EventMessage) -> EventMessage {
        EventMessage { api: self.take(&event.api), ..event }
    }

    fn put_all(&self, events: &[EventSelector]) -> Vec<EventSelector> {
        let put = |selector: &EventSelector| EventSelector {
            api: self.put(&selector.api),
            event: selector.event.clone(),
        };
        events.iter().map(put).collect()
    }

    fn put_group(&self, group: &GroupSpec) -> GroupSpec {
        GroupSpec::new(self.put(&group.service), Name::clone(&group.listener))
    }
}

impl Layer for Isolate {
    fn rpc(&self, inner: Arc<dyn RpcTransport>) -> Arc<dyn RpcTransport> {
        Arc::new(Calls { inner, names: self.clone() })
    }

    /// Results are matched to callers by an id that is unique anyway.
    fn result(&self, inner: Arc<dyn ResultTransport>) -> Arc<dyn ResultTransport> {
        inner
    }

    fn event(&self, inner: Arc<dyn EventTransport>) -> Arc<dyn EventTransport> {
        Arc::new(Events { inner, names: self.clone() })
    }

    fn schema(&self, inner: Arc<dyn SchemaTransport>) -> Arc<dyn SchemaTransport> {
        Arc::new(Schemas { inner, names: self.clone() })
    }
}

#[derive(Debug)]
struct Calls {
    inner: Arc<dyn RpcTransport>,
    names: Isolate,
}

#[derive(Debug)]
struct Events {
    inner: Arc<dyn EventTransport>,
    names: Isolate,
}

#[derive(Debug)]
struct Schemas {
    inner: Arc<dyn SchemaTransport>,
    names: Isolate,
}

delegate_transport!(
    Calls, Events, Schemas;
    inspect: |wrapper| wrapper.inner.inspect().map(|_| wrapper as &dyn Inspect)
);

/// Implements `Inspect` with names as they are on the broker.
macro_rules! inspect_with_prefix {
    ($($type:ty),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl Inspect for $type {
            async fn locate(&self, api: &str, member: Option<&str>) -> Result<Vec<Location>> {
                match self.inner.inspect() {
                    Some(inner) => inner.locate(&self.names.put(api), member).await,
                    None => Ok(Vec::new()),
                }
            }

            async fn diagnose(&self) -> Result<Vec<Finding>> {
                match self.inner.inspect() {
                    Some(inner) => inner.diagnose().await,
                    None => Ok(Vec::new()),
                }
            }
        }
    )*};
}

inspect_with_prefix!(Calls, Events, Schemas);

impl Interceptor<RpcMessage> for Isolate {
    fn arrived(&self, call: Arc<RpcMessage>) -> Arc<RpcMessage> {
        Arc::new(RpcMessage { api: self.take(&call.api), ..RpcMessage::clone(&call) })
    }
}

impl Interceptor<EventMessage> for Isolate {
    fn arrived(&self, event: Arc<EventMessage>) -> Arc<EventMessage> {
        Arc::new(self.take_event(EventMessage::clone(&event)))
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RpcTransport for Calls {
    async fn call(&self, call: RpcMessage) -> Result<()> {
        self.inner.call(RpcMessage { api: self.names.put(&call.api), ..call }).await
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let flow = spec.flow;
        let apis = spec.apis.iter().map(|api| self.names.put(api)).collect();
        let subscription = self.inner.serve(ServeSpec { apis, ..spec }).await?;
        Ok(intercept::calls(subscription, Arc::clone(&self.inner), flow, self.names.clone()))
    }

    async fn backlog(&self, api: &str) -> Result<u64> {
        self.inner.backlog(&self.names.put(api)).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl EventTransport for Events {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let put = |event: &EventMessage| EventMessage {
            api: self.names.put(&event.api),
            ..event.clone()
        };
        let events: Vec<_> = events.iter().map(put).collect();
        self.inner.send(&events).await
    }

    async fn listen(&self, spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let flow = spec.flow;
        let spec = self.put_spec(&spec);
        Ok(intercept::events(self.inner.listen(spec).await?, flow, self.names.clone()))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let api = self.names.put(&spec.events.api);
        let spec = HistorySpec { events: EventSelector { api, ..spec.events }, ..spec };
        let (history, names) = (self.inner.history(spec).await?, self.names.clone());
        Ok(Box::pin(history.map(move |event| event.map(|event| names.take_event(event)))))
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        self.inner.lag(&self.names.put_group(group), &self.names.put_all(events)).await
    }

    async fn waiting_here(&self, spec: &ListenSpec) -> Result<u64> {
        self.inner.waiting_here(&self.put_spec(spec)).await
    }

    async fn forget(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<()> {
        self.inner.forget(&self.names.put_group(group), &self.names.put_all(events)).await
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
        let inner = self.inner.require_dead_letters()?;
        let letters = inner.list(&self.names.put_group(group), after, limit).await?;
        Ok(letters.into_iter().map(|letter| self.take_letter(letter)).collect())
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let inner = self.inner.require_dead_letters()?;
        inner.remove(&self.names.put_group(group), ids).await
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let inner = self.inner.require_dead_letters()?;
        inner.requeue(&self.names.put_group(group), ids).await
    }
}

impl Events {
    fn put_spec(&self, spec: &ListenSpec) -> ListenSpec {
        ListenSpec {
            group: self.names.put_group(&spec.group),
            events: self.names.put_all(&spec.events),
            ..spec.clone()
        }
    }

    fn take_letter(&self, letter: DeadLetter) -> DeadLetter {
        DeadLetter {
            group: GroupSpec::new(self.names.take(&letter.group.service), letter.group.listener),
            event: self.names.take_event(letter.event),
            ..letter
        }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl SchemaTransport for Schemas {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        self.inner.store(&self.names.put(api), schema, ttl).await
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        self.inner.ping(&self.names.put(api), ttl).await
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        let schemas = self.inner.load().await?.into_iter();
        let own =
            schemas.filter_map(|(api, schema)| Some((self.names.strip(&api)?.to_owned(), schema)));
        Ok(own.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_out_with_the_prefix_and_comes_back_without() {
        let (one, other) = (Isolate::fresh(), Isolate::fresh());
        let name = one.put("shop.till");
        assert_eq!(&*one.take(&name), "shop.till");
        assert_eq!(one.strip("shop.till"), None);
        assert_eq!(other.strip(&name), None);
        lightbus_core::name::check_api(&name).unwrap();
    }
}
