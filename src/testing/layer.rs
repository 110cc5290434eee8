//! Layers over transports. A layer wraps all transports of a registry, whatever they are.

use std::{fmt, sync::Arc};

use lightbus_core::{
    ConfigSection, Registry, Result, TransportFactory, TransportKind,
    transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport},
};
use serde_json::Value;

/// Wraps transports. A kind of transport that needs no wrapper is returned as it is.
pub(super) trait Layer: Clone + fmt::Debug + Send + Sync + 'static {
    fn rpc(&self, inner: Arc<dyn RpcTransport>) -> Arc<dyn RpcTransport>;
    fn result(&self, inner: Arc<dyn ResultTransport>) -> Arc<dyn ResultTransport>;
    fn event(&self, inner: Arc<dyn EventTransport>) -> Arc<dyn EventTransport>;
    fn schema(&self, inner: Arc<dyn SchemaTransport>) -> Arc<dyn SchemaTransport>;
}

/// Returns the transports of a registry, each wrapped by a layer.
pub(super) fn over<L: Layer>(registry: &Registry, layer: &L) -> Registry {
    registry.names().fold(Registry::new(), |whole, name| {
        whole.with(Layered { name, registry: registry.clone(), layer: layer.clone() })
    })
}

#[derive(Debug)]
struct Layered<L> {
    name: &'static str,
    registry: Registry,
    layer: L,
}

#[deny(clippy::missing_trait_methods)]
impl<L: Layer> TransportFactory for Layered<L> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn options(&self, kind: TransportKind) -> Option<Value> {
        self.registry.get(self.name).ok()?.options(kind)
    }

    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        Ok(self.layer.rpc(self.registry.get(self.name)?.rpc(section)?))
    }

    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        Ok(self.layer.result(self.registry.get(self.name)?.result(section)?))
    }

    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        Ok(self.layer.event(self.registry.get(self.name)?.event(section)?))
    }

    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        Ok(self.layer.schema(self.registry.get(self.name)?.schema(section)?))
    }
}

/// Returns all compiled-in transports, each replaced by the memory transport, so that a production
/// configuration with all its options runs without a broker. They share one broker in memory.
pub(super) fn all_in_memory() -> Registry {
    let memory = crate::transport::memory::MemoryFactory::default();
    let replaced = crate::registry();
    replaced.names().fold(Registry::new(), |whole, name| {
        whole.with(InMemory { name, memory: memory.clone(), replaced: replaced.clone() })
    })
}

#[derive(Debug)]
struct InMemory {
    name: &'static str,
    memory: crate::transport::memory::MemoryFactory,
    replaced: Registry,
}

impl InMemory {
    /// Keeps the options of the memory transport, and drops those of others.
    fn section(&self, section: &ConfigSection) -> ConfigSection {
        if self.name == self.memory.name() {
            section.clone()
        } else {
            ConfigSection::empty(section.path())
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl TransportFactory for InMemory {
    fn name(&self) -> &'static str {
        self.name
    }

    /// The options of the replaced transport, so that its configuration is checked as usual.
    fn options(&self, kind: TransportKind) -> Option<Value> {
        self.replaced.get(self.name).ok()?.options(kind)
    }

    fn rpc(&self, section: &ConfigSection) -> Result<Arc<dyn RpcTransport>> {
        self.memory.rpc(&self.section(section))
    }

    fn result(&self, section: &ConfigSection) -> Result<Arc<dyn ResultTransport>> {
        self.memory.result(&self.section(section))
    }

    fn event(&self, section: &ConfigSection) -> Result<Arc<dyn EventTransport>> {
        self.memory.event(&self.section(section))
    }

    fn schema(&self, section: &ConfigSection) -> Result<Arc<dyn SchemaTransport>> {
        self.memory.schema(&self.section(section))
    }
}

/// Implements `Transport` for wrappers by delegating to what they wrap, `inner`. With `inspect` a wrapper
/// that changes names can inspect in its own way.
///
/// On this and every other implementation by a wrapper, omitting a method that has a default is an
/// error: the default would hide what the wrapped transport can do.
macro_rules! delegate_transport {
    ($($type:ty),*) => {
        delegate_transport!($($type),*; inspect: |wrapper| wrapper.inner.inspect());
    };
    ($($type:ty),*; inspect: |$wrapper:ident| $inspect:expr) => {$(
        #[async_trait::async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl lightbus_core::Transport for $type {
            fn name(&self) -> &'static str {
                self.inner.name()
            }

            fn broker(&self) -> String {
                self.inner.broker()
            }

            fn capabilities(&self) -> lightbus_core::Capabilities {
                self.inner.capabilities()
            }

            fn inspect(&self) -> Option<&dyn lightbus_core::transport::Inspect> {
                let $wrapper = self;
                $inspect
            }

            async fn open(&self) -> lightbus_core::Result<()> {
                self.inner.open().await
            }

            async fn close(&self) -> lightbus_core::Result<()> {
                self.inner.close().await
            }
        }
    )*};
}
pub(super) use delegate_transport;
