//! Turning errors of serde and of transports into errors that help the author of a configuration: with
//! the path, the file, what was expected and a suggestion, and without secrets.

use lightbus_core::{Error, ErrorKind, nearest};
use serde_json::Value;

use super::{schema, secrets, tree::Tree};

/// The operation that errors name.
pub(super) const READING: &str = "reading the configuration";

/// Rewrites an error about a configuration. `known` is the schema of all keys.
pub(crate) fn explain(error: &Error, tree: &Tree, known: &Value) -> Error {
    if error.kind() != ErrorKind::Config {
        return error.clone();
    }
    let at = error.context().find(|(key, _)| *key == "at").map(|(_, path)| path);
    let path = at.unwrap_or_default().trim_start_matches('.');
    let (found, keys) = tree.find(path);
    let (message, facts, hint) = rewritten(error.message(), path, &keys, (found, known));
    let scrub = |text: &str| secrets::scrubbed(text, tree, known);
    let mut out = Error::new(ErrorKind::Config, scrub(&message))
        .during(if error.operation().is_empty() { READING } else { error.operation() }.to_owned());
    if !path.is_empty() {
        out = out.with("at", path);
    }
    for (key, value) in error.context().filter(|(key, _)| *key != "at") {
        out = out.with(key, scrub(value));
    }
    for (key, value) in facts {
        out = out.with(key, value);
    }
    let names_place = |(key, _): (&str, &str)| key == "file" || key == "variable";
    if let (false, Some((key, name))) = (error.context().any(names_place), found.origin().fact()) {
        out = out.with(key, name);
    }
    match error.advice().map(scrub).or(hint) {
        Some(hint) => out.hint(hint),
        None => out,
    }
}

type Facts = Vec<(&'static str, String)>;

fn rewritten(
    message: &str,
    path: &str,
    keys: &[String],
    (found, known): (&Tree, &Value),
) -> (String, Facts, Option<String>) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if message.starts_with("unknown field") {
        let key = quoted.next().unwrap_or_default();
        let siblings: Vec<_> = quoted.collect();
        let hint = match nearest(key, siblings.iter().copied()) {
            Some(near) => Some(format!("Did you mean `{near}`?")),
            None => elsewhere(key, known),
        };
        let fact = ("known", siblings.join(", "));
        let facts = if siblings.is_empty() { Vec::new() } else { vec![fact] };
        return (format!("there is no key `{key}` here"), facts, hint);
    }
    if message.starts_with("unknown variant") {
        let value = quoted.next().unwrap_or_default();
        let values: Vec<_> = quoted.collect();
        let lower = value.to_lowercase();
        let hint =
            nearest(&lower, values.iter().copied()).map(|near| format!("Did you mean `{near}`?"));
        return (format!("`{value}` is not one of {}", values.join(", ")), Vec::new(), hint);
    }
    if let Some((kind, number, expected)) = mismatch(message) {
        let hint = quoting(kind, path, keys);
        // Texts and some numbers may be secrets, and are not repeated.
        let number = number.filter(|_| match found {
            Tree::Leaf(leaf) => {
                let key = keys.last().map(String::as_str).unwrap_or_default();
                leaf.written.is_none() && !secrets::is_secret(key, schema::at(known, keys))
            }
            Tree::Mapping(..) => false,
        });
        let found = number.unwrap_or(kind);
        return (format!("expected {expected}, found {found}"), Vec::new(), hint);
    }
    (message.to_owned(), Vec::new(), None)
}

/// Parses serde's `invalid type: string "x", expected u32`. Returns the kind of value that was found, the
/// number if it was one, and what was expected.
fn mismatch(message: &str) -> Option<(&'static str, Option<&str>, String)> {
    let rest = message
        .strip_prefix("invalid type: ")
        .or_else(|| message.strip_prefix("invalid value: "))?;
    let (found, expected) = rest.rsplit_once(", expected ")?;
    let kinds = [
        ("string", "a text"),
        ("integer", "a whole number"),
        ("floating point", "a number"),
        ("boolean", "true or false"),
        ("null", "nothing"),
        ("unit", "nothing"),
        ("sequence", "a list"),
        ("map", "a mapping"),
    ];
    let (kind, words) = kinds.iter().find(|(kind, _)| found.starts_with(kind))?;
    let number = found.split('`').nth(1).filter(|_| matches!(*kind, "integer" | "floating point"));
    let expected = match expected {
        "a string" | "string" => "a text".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "f64" | "f32" => "a number".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not negative".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        other if other.starts_with("struct ") || other.starts_with("a map") => {
            "a mapping".to_owned()
        }
        other if other.starts_with("a nonzero") => "a whole number above zero".to_owned(),
        other if other.contains("variant") || other.contains("enum") => "a text".to_owned(),
        other => other.to_owned(),
    };
    Some((words, number, expected))
}

/// Returns a hint for the most frequent mistake: a number in quotes.
fn quoting(found: &str, path: &str, keys: &[String]) -> Option<String> {
    let key = keys.last().filter(|key| path.ends_with(key.as_str()))?;
    (found == "a text")
        .then(|| format!("Is the value of `{key}` in quotes that it should not have?"))
}

/// Returns a hint for a key that is known at another place.
fn elsewhere(key: &str, known: &Value) -> Option<String> {
    let places = schema::places_of(known, key);
    let shortest = places.iter().min_by_key(|place| place.len())?;
    Some(format!("It belongs elsewhere: `{shortest}`"))
}
