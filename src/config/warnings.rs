//! Warnings about values that are accepted and may not do what their author expects.

use std::fmt;

use lightbus_core::Registry;
use serde_json::Value;

use super::{Config, Origin, json_schema_for, load::plugin_names, schema, tree::Tree};

/// A warning about the configuration.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Warning {
    /// The path: keys separated by dots.
    pub path: String,
    /// What is wrong, and what is used instead.
    pub message: String,
    /// The origin of the value.
    pub origin: Origin,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)?;
        match self.origin.fact() {
            Some((key, name)) => write!(f, " ({key} {name})"),
            None => Ok(()),
        }
    }
}

impl Config {
    /// Returns warnings about keys that have no effect, such as those that only Python uses, and about
    /// values that contradict each other. A bus logs them when it connects.
    #[must_use]
    pub fn warnings(&self, registry: &Registry) -> Vec<Warning> {
        let known = json_schema_for(registry);
        let mut warnings = Vec::new();
        let mut idle = Vec::new();
        self.sources.tree.each_leaf(&mut Vec::new(), &mut |path, leaf| {
            let why = schema::at(&known, path)
                .and_then(|known| schema::keyword(known, "x-without-effect"))
                .and_then(Value::as_str);
            if let (Some(why), false) = (why, leaf.value.is_null()) {
                idle.push(Warning {
                    path: path.join("."),
                    message: format!("has no effect here: {why}"),
                    origin: leaf.origin.clone(),
                });
            }
        });
        warnings.append(&mut idle);
        let plugins = self.sources.tree.get("plugins").and_then(Tree::entries);
        for name in plugins.into_iter().flatten().map(|(name, _)| name) {
            if !plugin_names(&known).any(|known| known == name) {
                let message = "is passed over: no plugin of this name can be configured here, and those of Python are not loaded";
                warnings.push(self.warning(&format!("plugins.{name}"), message.to_owned()));
            }
        }
        for (api, settings) in &self.apis {
            if settings.strict_validation
                && !settings.validate.outgoing
                && !settings.validate.incoming
            {
                let message = "has no effect while `validate` is off".to_owned();
                warnings.push(self.warning(&format!("apis.{api}.strict_validation"), message));
            }
            let path = format!("apis.{api}.rpc_transport");
            if let Some(selector) = &settings.rpc_transport {
                let limit = selector.option("rpc_timeout").and_then(Value::as_f64);
                let allowed = settings.rpc_timeout.as_secs_f64();
                if let Some(limit) = limit.filter(|limit| *limit < allowed) {
                    let path = format!("{path}.{}.rpc_timeout", selector.name());
                    let message = format!(
                        "is {limit} s and shorter than the {allowed} s of `apis.{api}.rpc_timeout`: calls of Python services expire while their callers still wait"
                    );
                    warnings.push(self.warning(&path, message));
                }
            }
        }
        warnings
    }

    fn warning(&self, path: &str, message: String) -> Warning {
        let origin = self.sources.tree.find(path).0.origin().clone();
        Warning { path: path.to_owned(), message, origin }
    }
}
