//! Standard output: whole lines, each flushed, so that the reader of a pipe sees it at once.

use std::{
    io::{self, IsTerminal, Write},
    time::SystemTime,
};

use chrono::{DateTime, SecondsFormat, Utc};
use console::style;
use lightbus::{Bus, EventMessage};
use serde_json::{Map, Value, json};

use crate::{context::Context, failure::Failure};

/// Prints a line.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Prints a value: on one line for programs, indented for people.
pub(crate) fn value(context: &Context, value: &Value) -> io::Result<()> {
    if context.json || !io::stdout().is_terminal() {
        line(&value.to_string())
    } else {
        line(&format!("{value:#}"))
    }
}

pub(crate) fn version(context: &Context) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    if context.json {
        let registry = context.registry();
        let transports: Vec<_> = registry.names().collect();
        line(&json!({ "version": version, "transports": transports }).to_string())?;
    } else {
        line(version)?;
    }
    Ok(())
}

/// `1 schema`, `2 schemas`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A time as text: UTC, with milliseconds.
pub(crate) fn timestamp(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// An event for programs; sensitive values are redacted.
pub(crate) fn event_as_json(bus: &Bus, event: &EventMessage) -> Value {
    json!({
        "id": &*event.id,
        "native_id": event.native_id.as_deref(),
        "time": event.time.map(timestamp),
        "api": &*event.api,
        "event": &*event.event,
        "version": event.version,
        "arguments": bus.shown(event),
    })
}

/// The arguments of an event, not redacted, to search in. A value that is not JSON becomes a string.
pub(crate) fn arguments(event: &EventMessage) -> Map<String, Value> {
    let values = event.fields.iter().map(|(name, value)| {
        let read = serde_json::from_slice(value)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(value).into_owned()));
        (name.to_string(), read)
    });
    values.collect()
}

/// Whether an event has sensitive values.
pub(crate) fn is_hidden(bus: &Bus, event: &EventMessage) -> bool {
    bus.shown(event) != arguments(event)
}

/// An event for people, on one line; sensitive values are redacted.
pub(crate) fn event_line(bus: &Bus, event: &EventMessage) -> String {
    let time = event.time.map(timestamp).unwrap_or_default();
    let name = format!("{}.{}", event.api, event.event);
    let mut text =
        format!("{} {} {}", style(time).dim(), style(&event.id).dim(), style(name).green());
    for (name, value) in bus.shown(event) {
        text.push_str(&format!(" {}={value}", style(name).cyan()));
    }
    text
}

/// Prints an event, for programs or for people.
pub(crate) fn event(bus: &Bus, json: bool, event: &EventMessage) -> io::Result<()> {
    if json { line(&event_as_json(bus, event).to_string()) } else { line(&event_line(bus, event)) }
}
