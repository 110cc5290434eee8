//! The document of one API as a bus uses it: which members it has, what of a message may be shown, and
//! whether a message fits.

use std::collections::HashMap;

use bytes::Bytes;
use lightbus_core::{Arguments, Error, ErrorKind, Name, Result};
use serde_json::{Map, Value, value::RawValue};

use super::{check::Checks, document};
use crate::{contract::key_of, sensitive};

/// The schema of one API, with its checks compiled when they are first needed.
#[derive(Debug)]
pub(crate) struct ApiSchema {
    text: Box<RawValue>,
    version: u32,
    rpcs: HashMap<String, Member>,
    events: HashMap<String, Member>,
    /// Whether any value of it is sensitive.
    sensitive: bool,
}

#[derive(Debug)]
struct Member {
    parameters: Value,
    response: Value,
    /// Of an event: the field that is its ordering key.
    key: Option<Box<str>>,
    checks: Checks,
}

impl ApiSchema {
    /// Parses a document as it is stored on the bus.
    pub(crate) fn read(text: Box<RawValue>) -> Result<Self> {
        let malformed = |what: &str| Error::new(ErrorKind::Malformed, format!("the schema {what}"));
        let mut document: Value = serde_json::from_str(text.get())
            .map_err(|error| malformed("is not valid JSON").because(error))?;
        let mut section = |name: &str| match document.get_mut(name).map(Value::take) {
            Some(Value::Object(members)) => Ok(members),
            None | Some(Value::Null) => Ok(Map::new()),
            Some(_) => Err(malformed(&format!("has `{name}` that are not an object"))),
        };
        let members = |section: Map<String, Value>| {
            section
                .into_iter()
                .map(|(name, mut member)| {
                    let mut part =
                        |key: &str| member.get_mut(key).map_or(Value::Bool(true), Value::take);
                    let (parameters, response) = (part("parameters"), part("response"));
                    let key = member.get(document::KEY).and_then(Value::as_str).map(Box::from);
                    (name, Member { parameters, response, key, checks: Checks::default() })
                })
                .collect()
        };
        let sections = (section("rpcs")?, section("events")?);
        let holds = |section: &Map<String, Value>| section.values().any(sensitive::is_in);
        let sensitive = holds(&sections.0) || holds(&sections.1);
        let (rpcs, events) = (members(sections.0), members(sections.1));
        // Python's documents have no version; its events have version 1.
        let version = document.get("x-version").and_then(Value::as_u64);
        let version = version.and_then(|version| u32::try_from(version).ok()).unwrap_or(1);
        Ok(Self { text, version, rpcs, events, sensitive })
    }

    pub(crate) fn text(&self) -> &RawValue {
        &self.text
    }

    /// Returns the version of the API's events.
    pub(crate) fn version(&self) -> u32 {
        self.version
    }

    /// Returns the ordering key of an event with these fields. Python's documents declare none.
    pub(crate) fn key_in(&self, event: &str, fields: &Arguments) -> Option<Name> {
        let Member { parameters, key, .. } = self.events.get(event)?;
        let field = key.as_deref()?;
        match fields.get(field) {
            Some(value) => key_of(value),
            None => key_of(parameters["properties"][field].get("default")?.to_string().as_bytes()),
        }
    }

    pub(crate) fn procedures(&self) -> impl Iterator<Item = &str> {
        self.rpcs.keys().map(String::as_str)
    }

    pub(crate) fn events(&self) -> impl Iterator<Item = &str> {
        self.events.keys().map(String::as_str)
    }

    /// Returns the redacted arguments of a call, or `None` if nothing needs to be redacted.
    pub(crate) fn shown_call(&self, procedure: &str, arguments: &Arguments) -> Option<Value> {
        self.sensitive.then(|| match self.rpcs.get(procedure) {
            Some(member) => sensitive::redact(&member.parameters, arguments),
            None => sensitive::REDACTED.into(),
        })
    }

    /// Returns the redacted result of a call, or `None` if nothing needs to be redacted.
    pub(crate) fn shown_result(&self, procedure: &str, result: &[u8]) -> Option<Value> {
        if !self.sensitive {
            return None;
        }
        let mut value =
            serde_json::from_slice(result).unwrap_or_else(|_| sensitive::REDACTED.into());
        match self.rpcs.get(procedure) {
            Some(member) => sensitive::redact_value(&member.response, &mut value),
            None => value = sensitive::REDACTED.into(),
        }
        Some(value)
    }

    /// Returns the redacted arguments of an event, or `None` if nothing needs to be redacted.
    pub(crate) fn shown_event(&self, event: &str, arguments: &Arguments) -> Option<Value> {
        self.sensitive.then(|| match self.events.get(event) {
            Some(member) => sensitive::redact(&member.parameters, arguments),
            // Newer or older than the schema, so its fields are unknown.
            None => sensitive::REDACTED.into(),
        })
    }

    /// Validates the arguments of a call. Fails with `Unknown` for a procedure that the schema lacks.
    pub(crate) fn check_call(&self, procedure: &str, arguments: &Arguments) -> Result<()> {
        let member = self.procedure(procedure)?;
        member.checks.parameters(&member.parameters, arguments)
    }

    /// Validates the result of a call.
    pub(crate) fn check_result(&self, procedure: &str, result: &Bytes) -> Result<()> {
        let member = self.procedure(procedure)?;
        member.checks.response(&member.response, result)
    }

    /// Validates the arguments of an event. Fails with `Unknown` for an event that the schema lacks.
    pub(crate) fn check_event(&self, event: &str, arguments: &Arguments) -> Result<()> {
        let member =
            self.events.get(event).ok_or_else(|| unknown("event", event, self.events()))?;
        member.checks.parameters(&member.parameters, arguments)
    }

    fn procedure(&self, name: &str) -> Result<&Member> {
        self.rpcs.get(name).ok_or_else(|| unknown("procedure", name, self.procedures()))
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let mut known: Vec<_> = known.collect();
    known.sort_unstable();
    Error::new(ErrorKind::Unknown, format!("the API has no {what} `{name}`"))
        .with("it has", if known.is_empty() { "none".to_owned() } else { known.join(", ") })
        .did_you_mean(name, known)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_unknown_procedure_names_the_nearest() {
        let document = json!({ "rpcs": { "p": { "parameters": {}, "response": {} } } });
        let schema = ApiSchema::read(serde_json::from_str(&document.to_string()).unwrap()).unwrap();
        let error = schema.check_call("q", &Arguments::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unknown);
        assert!(error.to_string().contains("it has p"), "{error}");
    }
}
