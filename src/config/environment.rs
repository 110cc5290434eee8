//! Environment variables, and `LIGHTBUS__…`, which sets single keys.

use std::collections::BTreeMap;

use lightbus_core::{Error, ErrorKind, Result, nearest};
use serde_json::Value;

use super::{Origin, schema, tree::Tree, typed::typed};

/// The separator of keys in a variable's name. Also ends the prefix.
const SEPARATOR: &str = "__";
const PREFIX: &str = "LIGHTBUS__";

/// The variables of a process.
#[derive(Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

impl Environment {
    pub(crate) fn new<K: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let variables = variables.into_iter();
        Self(variables.map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// Returns the variables of this process. Variables that are not Unicode are ignored.
    pub(crate) fn of_process() -> Self {
        Self(
            std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
        )
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Applies the variables that set keys to a configuration. Returns whether there were any.
    pub(crate) fn lay_over(&self, tree: &mut Tree, known: &Value) -> Result<bool> {
        let mut any = false;
        for (name, value) in &self.0 {
            let Some(keys) = name.strip_prefix(PREFIX) else { continue };
            let keys: Vec<_> = keys.split(SEPARATOR).collect();
            let path = path(&keys, tree, known).map_err(|error| {
                error.during("reading the configuration").with("variable", name)
            })?;
            let value = typed(value, schema::at(known, &path), true);
            tree.put(&path, value, &Origin::Environment(name.clone()));
            any = true;
        }
        Ok(any)
    }
}

/// Maps the parts of a variable's name to keys of the configuration, ignoring case.
fn path(parts: &[&str], tree: &Tree, known: &Value) -> Result<Vec<String>> {
    let mut path: Vec<String> = Vec::new();
    let mut here = known;
    for part in parts {
        let wrong = |message: String| Error::new(ErrorKind::Config, message);
        if part.is_empty() {
            return Err(wrong("a part of the variable's name is empty".to_owned())
                .hint("Write LIGHTBUS__, then the keys with two underscores between them, as LIGHTBUS__BUS__SCHEMA__TTL"));
        }
        let lower = part.to_lowercase();
        let key = if path == ["apis"] {
            api(part, tree)?
        } else if schema::is_open(here) || schema::properties(here).any(|(name, _)| *name == lower)
        {
            lower
        } else {
            let names = || schema::properties(here).map(|(name, _)| name.as_str());
            let place = if path.is_empty() {
                "the configuration".to_owned()
            } else {
                format!("`{}`", path.join("."))
            };
            let known: Vec<_> = names().collect();
            if known.is_empty() {
                return Err(wrong(format!(
                    "{place} holds a single value, there is no key `{lower}` in it"
                )));
            }
            let error =
                wrong(format!("{place} has no key `{lower}`")).with("known", known.join(", "));
            return Err(match nearest(&lower, names()) {
                Some(near) => error.hint(format!("Did you mean `{}`?", near.to_uppercase())),
                None => error,
            });
        };
        here = schema::child(here, &key).unwrap_or(&Value::Null);
        path.push(key);
    }
    Ok(path)
}

/// Returns the API that a part of a variable's name means. Most shells allow no dots in names, so
/// `SHOP_TILL` means the API `shop.till` or `shop_till` of the configuration.
fn api(part: &str, tree: &Tree) -> Result<String> {
    if part.contains('.') || part.eq_ignore_ascii_case("default") {
        return Ok(if part.contains('.') { part.to_owned() } else { "default".to_owned() });
    }
    let plain = |name: &str| name.replace(['.', '-'], "_").to_lowercase();
    let configured = || {
        let apis = tree.get("apis").and_then(Tree::entries).into_iter().flatten();
        apis.map(|(name, _)| name.as_str())
    };
    let mut meant = configured().filter(|name| plain(name) == part.to_lowercase());
    match (meant.next(), meant.next()) {
        (Some(name), None) => Ok(name.to_owned()),
        (Some(one), Some(other)) => Err(Error::new(
            ErrorKind::Config,
            format!("`{part}` may mean the API `{one}` or `{other}`"),
        )
        .hint("Set it in a file")),
        (None, _) if part.contains('_') => {
            let known: Vec<_> = configured().collect();
            let error = Error::new(
                ErrorKind::Config,
                format!("the configuration has no API that `{part}` could mean"),
            );
            let error = match known.is_empty() {
                true => error,
                false => error.with("known", known.join(", ")),
            };
            Err(error.hint(
                "An underscore may stand for a dot, so name the API in a file: an entry with nothing below it will do",
            ))
        }
        (None, _) => Ok(part.to_lowercase()),
    }
}
