//! The configuration: Python's `lightbus.yaml`, with additions.
//!
//! A file says which transport carries which API. Omitted keys have defaults. Unknown keys are refused,
//! with a suggestion. Without a file, everything stays in memory.
//!
//! [`Config::from_env`] and [`Config::load`] load it. [`Config::settings`] returns the values in effect
//! and where each came from, [`Config::warnings`] what has no effect. [`json_schema`] describes it for
//! editors.

mod check;
mod compiled;
mod environment;
mod expand;
mod explain;
mod fetch;
mod load;
mod model;
mod names;
mod origin;
mod plugins;
mod schema;
mod secrets;
mod selector;
mod settings;
mod tree;
mod typed;
mod warnings;

use std::fmt;

use lightbus_core::{Error, Registry, TransportKind};

pub use load::Loader;
pub use model::{
    ApiConfig, BusConfig, Config, ListenerConfig, LogLevel, OnIncompatible, OnMissing, RetryConfig,
    SchemaConfig, Validate,
};
pub use names::Names;
pub(crate) use names::hostname;
pub use origin::Origin;
pub use plugins::{MetricsPluginConfig, PluginsConfig, StatePluginConfig};
pub use schema::{json_schema, json_schema_for};
pub use selector::Selector;
pub use settings::Setting;
pub use warnings::Warning;

/// The origin of the configuration as a whole, and of each value.
#[derive(Clone, Default)]
pub(crate) struct Sources {
    kind: Source,
    tree: tree::Tree,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secrets.
        self.kind.fmt(f)
    }
}

/// The origin of the configuration.
#[derive(Clone, Debug, Default)]
enum Source {
    /// Not configured: everything in memory.
    #[default]
    Nothing,
    /// Given by the program.
    Code,
    /// No file, only variables.
    Environment,
    /// Read from these files, each laid over those before.
    Files(Vec<String>),
}

impl Config {
    /// Returns the settings of an API: its own, or those of `default`. Transports that it omits are those
    /// of `default`.
    pub(crate) fn api(&self, name: &str) -> ApiConfig {
        let default = self.apis.get("default");
        let Some(own) = self.apis.get(name) else {
            return default.cloned().unwrap_or_default();
        };
        let mut config = own.clone();
        if let Some(default) = default {
            for (own, default) in [
                (&mut config.rpc_transport, &default.rpc_transport),
                (&mut config.result_transport, &default.result_transport),
                (&mut config.event_transport, &default.event_transport),
            ] {
                if own.is_none() {
                    own.clone_from(default);
                }
            }
        }
        config
    }

    /// Returns the name of the entry with the settings of an API.
    pub(crate) fn section_of<'a>(&self, api: &'a str) -> &'a str {
        if self.apis.contains_key(api) { api } else { "default" }
    }

    /// Returns where the transport of an API is chosen, or could be: the path and the origin of the key.
    pub(crate) fn place_of(&self, api: &str, kind: &str) -> (String, Origin) {
        let own = self.apis.get(api).and_then(|api| match kind {
            "event_transport" => api.event_transport.as_ref(),
            _ => api.rpc_transport.as_ref(),
        });
        let section = if own.is_some() { api } else { "default" };
        let origin = match self.sources.tree.get("apis").and_then(|apis| apis.get(section)) {
            Some(section) => section.get(kind).map(|selector| selector.origin().clone()),
            None => None,
        };
        (format!("apis.{section}.{kind}"), origin.unwrap_or(Origin::Default))
    }

    /// Returns the transport for a kind of message that is not configured: the
    /// [`fallback`](Self::fallback), with those of its options that this kind has, too.
    pub(crate) fn fallback_for(&self, kind: TransportKind, registry: &Registry) -> Selector {
        let selector = self.fallback();
        match registry.get(selector.name()).ok().and_then(|factory| factory.options(kind)) {
            Some(known) => selector.retain(|option| schema::child(&known, option).is_some()),
            None => selector,
        }
    }

    /// Returns the transport where none is configured. Without a file, it is memory. With a file, it is
    /// Redis at its default address, as in Python, unless the file names another transport and no
    /// Redis: then it is that one.
    fn fallback(&self) -> Selector {
        let memory = || Selector::new("memory");
        if matches!(self.sources.kind, Source::Nothing) {
            return memory();
        }
        let default = self.apis.get("default");
        let named = default.into_iter().flat_map(|api| {
            [&api.rpc_transport, &api.result_transport, &api.event_transport].into_iter().flatten()
        });
        let mut named = named.chain(&self.bus.schema.transport).peekable();
        match named.peek().copied() {
            Some(first) if named.all(|selector| selector.name() != "redis") => first.clone(),
            None if !matches!(self.sources.kind, Source::Files(_)) => memory(),
            _ => Selector::new("redis"),
        }
    }

    /// Describes for people where the configuration came from.
    pub(crate) fn origin(&self) -> String {
        match &self.sources.kind {
            Source::Nothing => "none, all in memory".to_owned(),
            Source::Code => "given by the program".to_owned(),
            Source::Environment => "from the environment".to_owned(),
            Source::Files(files) => files.join(" + "),
        }
    }

    /// Adds to an error about this configuration what helps to find and fix the mistake.
    pub(crate) fn explain(&self, error: &Error, registry: &Registry) -> Error {
        explain::explain(error, &self.sources.tree, &json_schema_for(registry))
    }
}
