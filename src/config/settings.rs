//! The values in effect, with their origins.

use std::fmt;

use lightbus_core::{Registry, TransportKind};
use serde_json::Value;

use super::{Config, Origin, json_schema_for, schema, secrets, tree::Tree};

/// A value of the configuration in effect.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Setting {
    /// The path: keys separated by dots.
    pub path: String,
    /// The value, with secrets hidden and variables shown by name.
    pub value: Value,
    /// Its origin.
    pub origin: Origin,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}   # {}", self.path, self.value, self.origin)
    }
}

impl Config {
    /// Returns all values in effect, including defaults, sorted by path. `lightbus config show` prints
    /// them.
    ///
    /// ```
    /// # use lightbus::config::Config;
    /// # fn main() -> lightbus::Result<()> {
    /// let config = Config::loader()
    ///     .files([])
    ///     .environment([("LIGHTBUS__BUS__SCHEMA__TTL", "30")])
    ///     .load()?;
    /// let settings = config.settings(&lightbus::registry());
    /// let ttl = settings.iter().find(|setting| setting.path == "bus.schema.ttl").unwrap();
    /// assert_eq!(ttl.to_string(), "bus.schema.ttl = 30   # LIGHTBUS__BUS__SCHEMA__TTL");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn settings(&self, registry: &Registry) -> Vec<Setting> {
        let mut tree = self.sources.tree.clone();
        for (path, kind) in [
            (["apis", "default", "rpc_transport"], TransportKind::Rpc),
            (["apis", "default", "result_transport"], TransportKind::Result),
            (["apis", "default", "event_transport"], TransportKind::Event),
            (["bus", "schema", "transport"], TransportKind::Schema),
        ] {
            let there = path.iter().try_fold(&tree, |tree, key| tree.get(key));
            if there.is_none_or(Tree::is_null) {
                let path: Vec<_> = path.iter().map(|&key| key.to_owned()).collect();
                tree.put_below(&path, self.fallback_for(kind, registry).to_value());
            }
        }
        let known = json_schema_for(registry);
        let mut settings = Vec::new();
        collect(&mut Vec::new(), Some(&tree), Some(&known), &mut settings);
        settings.sort_by(|a, b| a.path.cmp(&b.path));
        settings
    }
}

fn collect(
    path: &mut Vec<String>,
    tree: Option<&Tree>,
    known: Option<&Value>,
    settings: &mut Vec<Setting>,
) {
    let key = path.last().cloned().unwrap_or_default();
    let tree = tree.filter(|tree| !tree.is_null());
    if let Some(Tree::Leaf(leaf)) = tree {
        settings.push(Setting {
            path: path.join("."),
            value: secrets::shown(&key, leaf, known),
            origin: leaf.origin.clone(),
        });
        return;
    }
    if let (None, Some(default)) = (tree, known.and_then(|known| known.get("default"))) {
        if !default.is_null() {
            let path = path.join(".");
            settings.push(Setting { path, value: default.clone(), origin: Origin::Default });
        }
        return;
    }
    let entries = tree.and_then(Tree::entries);
    let mut below = |key: &str, tree: Option<&Tree>, known: Option<&Value>| {
        path.push(key.to_owned());
        collect(path, tree, known, settings);
        path.pop();
    };
    // Alternatives that were not chosen have no values.
    let choice = known.is_some_and(|known| known.get("maxProperties").is_some());
    // An optional section has values only if it is present.
    let optional = tree.is_none() && known.is_some_and(|known| schema::allows(known, "null"));
    if let (false, false, Some(known)) = (choice, optional, known) {
        for (key, schema) in schema::properties(known) {
            if entries.is_none_or(|entries| !entries.contains_key(key)) {
                below(key, None, Some(schema));
            }
        }
    }
    for (key, tree) in entries.into_iter().flatten() {
        let known = known.and_then(|known| schema::child(known, key));
        // `redis:` with nothing below it has all its defaults.
        if choice && tree.is_null() {
            below(key, Some(&Tree::default()), known);
        } else {
            below(key, Some(tree), known);
        }
    }
}
