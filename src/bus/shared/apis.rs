//! The transports of each API.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use lightbus_core::{
    Error, Name, Registry, Result, TransportFactory, TransportKind,
    transport::{EventTransport, ResultTransport, RpcTransport, SchemaTransport, Transport},
};
use tokio::sync::OnceCell;

use crate::config::{ApiConfig, Config, Selector};

/// An API with its configuration and its transports.
#[derive(Debug)]
pub(crate) struct ApiEntry {
    pub(crate) name: Name,
    pub(crate) config: ApiConfig,
    pub(crate) rpc: Arc<dyn RpcTransport>,
    pub(crate) result: Arc<dyn ResultTransport>,
    pub(crate) event: Arc<dyn EventTransport>,
    opened: Arc<OnceCell<()>>,
}

impl ApiEntry {
    /// Connects the transports, once.
    pub(crate) async fn open(&self) -> Result<()> {
        self.opened
            .get_or_try_init(|| async {
                self.rpc.open().await?;
                self.result.open().await?;
                self.event.open().await
            })
            .await
            .copied()
    }
}

/// Adds the transport and its broker to an error, unless it names a broker already.
pub(crate) fn at<T: Transport + ?Sized>(transport: &T, error: Error) -> Error {
    if error.context().any(|(key, _)| key == "broker") {
        error
    } else {
        error.with("broker", format!("{} {}", transport.name(), transport.broker()))
    }
}

/// The transports of one API of the configuration. APIs with equal settings share their transports.
#[derive(Debug)]
struct Set {
    api: ApiConfig,
    rpc: Arc<dyn RpcTransport>,
    result: Arc<dyn ResultTransport>,
    event: Arc<dyn EventTransport>,
    opened: Arc<OnceCell<()>>,
}

#[derive(Debug)]
pub(crate) struct Apis {
    /// By name of the API. `default` applies to all others.
    sets: HashMap<String, Set>,
    entries: RwLock<HashMap<Name, Arc<ApiEntry>>>,
}

impl Apis {
    /// Creates the transports of every API in the configuration, without connecting. Mistakes show at
    /// startup this way, even for APIs that are used later.
    pub(crate) fn new(config: &Config, registry: &Registry) -> Result<Self> {
        let mut made = Made::default();
        let mut sets = HashMap::new();
        let names = config.apis.keys().map(String::as_str).filter(|name| *name != "default");
        for name in names.chain(["default"]) {
            if name != "default" {
                lightbus_core::name::check_api(name)
                    .map_err(|error| error.with("at", format!("apis.{name}")))?;
            }
            sets.insert(name.to_owned(), made.set(name, config, registry)?);
        }
        Ok(Self { sets, entries: RwLock::default() })
    }

    pub(crate) fn entry(&self, api: &str) -> Arc<ApiEntry> {
        if let Some(entry) = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(api) {
            return Arc::clone(entry);
        }
        let set = self.sets.get(api).unwrap_or_else(|| &self.sets["default"]);
        let entry = Arc::new(ApiEntry {
            name: api.into(),
            config: set.api.clone(),
            rpc: Arc::clone(&set.rpc),
            result: Arc::clone(&set.result),
            event: Arc::clone(&set.event),
            opened: Arc::clone(&set.opened),
        });
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        // API names may come from outside, so the cache is bounded.
        if entries.len() < 10_000 {
            entries.insert(api.into(), Arc::clone(&entry));
        }
        entry
    }

    /// Returns the name of a transport that does not reach other processes, if there is one.
    pub(crate) fn unshared(&self) -> Option<&'static str> {
        self.sets.values().find_map(|set| {
            [
                (set.rpc.name(), set.rpc.capabilities()),
                (set.result.name(), set.result.capabilities()),
                (set.event.name(), set.event.capabilities()),
            ]
            .into_iter()
            .find_map(|(name, can)| (!can.shared).then_some(name))
        })
    }

    /// Returns each event transport once.
    pub(crate) fn event_transports(&self) -> Vec<Arc<dyn EventTransport>> {
        let mut transports: Vec<Arc<dyn EventTransport>> = Vec::new();
        for set in self.sets.values() {
            if transports.iter().all(|known| !Arc::ptr_eq(known, &set.event)) {
                transports.push(Arc::clone(&set.event));
            }
        }
        transports
    }

    /// Closes all transports. Returns the first error.
    pub(crate) async fn close(&self) -> Result<()> {
        let mut first = Ok(());
        for set in self.sets.values() {
            for end in [set.rpc.close().await, set.result.close().await, set.event.close().await] {
                first = first.and(end);
            }
        }
        first
    }
}

/// Creates each transport that the configuration names, so that a mistake is reported at the key where
/// it was made, not at one that falls back to it.
pub(crate) fn check_named(config: &Config, registry: &Registry) -> Result<()> {
    let check = |kind, path: String, selector: Option<&Selector>| -> Result<()> {
        let Some(selector) = selector else { return Ok(()) };
        let (factory, section) = (factory(selector, &path, registry)?, selector.section(&path));
        match kind {
            TransportKind::Rpc => factory.rpc(&section).map(drop),
            TransportKind::Result => factory.result(&section).map(drop),
            TransportKind::Event => factory.event(&section).map(drop),
            TransportKind::Schema => factory.schema(&section).map(drop),
        }
    };
    for (name, api) in &config.apis {
        let path = |kind: &str| format!("apis.{name}.{kind}");
        check(TransportKind::Rpc, path("rpc_transport"), api.rpc_transport.as_ref())?;
        check(TransportKind::Result, path("result_transport"), api.result_transport.as_ref())?;
        check(TransportKind::Event, path("event_transport"), api.event_transport.as_ref())?;
    }
    let schema = config.bus.schema.transport.as_ref();
    check(TransportKind::Schema, "bus.schema.transport".to_owned(), schema)
}

/// Creates the transport for schemas.
pub(crate) fn schema_transport(
    config: &Config,
    registry: &Registry,
) -> Result<Arc<dyn SchemaTransport>> {
    let selector = config.bus.schema.transport.clone();
    let selector = selector.unwrap_or_else(|| config.fallback_for(TransportKind::Schema, registry));
    let path = "bus.schema.transport";
    let factory = factory(&selector, path, registry)?;
    factory.schema(&selector.section(path))
}

/// The transports created so far. Equal settings share a transport.
#[derive(Default)]
struct Made {
    rpc: Vec<(Selector, Arc<dyn RpcTransport>)>,
    result: Vec<(Selector, Arc<dyn ResultTransport>)>,
    event: Vec<(Selector, Arc<dyn EventTransport>)>,
}

impl Made {
    fn set(&mut self, api: &str, config: &Config, registry: &Registry) -> Result<Set> {
        let settings = config.api(api);
        let path = |kind: &str| format!("apis.{api}.{kind}");
        let rpc = shared(
            &mut self.rpc,
            settings.rpc_transport.as_ref(),
            TransportKind::Rpc,
            &path("rpc_transport"),
            config,
            registry,
            |factory, section| factory.rpc(section),
        )?;
        let result = shared(
            &mut self.result,
            settings.result_transport.as_ref(),
            TransportKind::Result,
            &path("result_transport"),
            config,
            registry,
            |factory, section| factory.result(section),
        )?;
        let event = shared(
            &mut self.event,
            settings.event_transport.as_ref(),
            TransportKind::Event,
            &path("event_transport"),
            config,
            registry,
            |factory, section| factory.event(section),
        )?;
        if rpc.capabilities().shared != result.capabilities().shared {
            let (calls, results) = (rpc.name(), result.name());
            return Err(Error::config(
                format!("apis.{api}"),
                format!("calls over `{calls}` and results over `{results}` do not work together: one of them does not leave this process"),
            )
            .hint("Choose an `rpc_transport` and a `result_transport` that reach the same processes"));
        }
        Ok(Set { api: settings, rpc, result, event, opened: Arc::default() })
    }
}

fn shared<T: ?Sized>(
    made: &mut Vec<(Selector, Arc<T>)>,
    selector: Option<&Selector>,
    kind: TransportKind,
    path: &str,
    config: &Config,
    registry: &Registry,
    make: impl FnOnce(&dyn TransportFactory, &lightbus_core::ConfigSection) -> Result<Arc<T>>,
) -> Result<Arc<T>> {
    let selector = selector.cloned().unwrap_or_else(|| config.fallback_for(kind, registry));
    if let Some((_, transport)) = made.iter().find(|(known, _)| *known == selector) {
        return Ok(Arc::clone(transport));
    }
    let factory = factory(&selector, path, registry)?;
    let transport = make(factory, &selector.section(path))?;
    made.push((selector, Arc::clone(&transport)));
    Ok(transport)
}

fn factory<'r>(
    selector: &Selector,
    path: &str,
    registry: &'r Registry,
) -> Result<&'r dyn TransportFactory> {
    registry.get(selector.name()).map_err(|error| {
        let error = error.with("at", path);
        let error = match selector.name() {
            "debug" => {
                error.hint("Use `memory` where Python has `debug`: nothing leaves this process")
            }
            name if crate::TRANSPORTS.contains(&name) => {
                error.hint(format!("Build the program with lightbus' cargo feature `{name}`"))
            }
            _ => error,
        };
        error.did_you_mean(selector.name(), registry.names())
    })
}
