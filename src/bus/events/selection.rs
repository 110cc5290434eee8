//! What a listener listens to: names and `api.*`, and what becomes of other names.

use std::{sync::Arc, time::Duration};

use lightbus_core::{Error, ErrorKind, Name, Result, name, nearest, transport::EventSelector};
use tokio::time::timeout;

use crate::{
    bus::shared::{Inner, drained},
    schema::SchemaStore,
};

/// How long to look for the schema of an unknown API before its names are taken as they are.
const LOOK: Duration = Duration::from_secs(2);

/// The most events that a hint names.
const MOST_NAMED: usize = 5;

impl Inner {
    /// Parses `api.event`, or `api.*` for all events of an API. Other patterns are refused, with the
    /// events that they may mean.
    pub(crate) fn selector(&self, path: &str) -> Result<EventSelector> {
        let (api, event) = name::split(path)?;
        let is_all = event == "*";
        if api.contains('*') || (event.contains('*') && !is_all) {
            return Err(self.no_pattern(path));
        }
        name::check_api(api)?;
        if is_all {
            return Ok(EventSelector::all(api));
        }
        name::check_member("event", event)?;
        Ok(EventSelector::one(api, event))
    }

    /// Returns the events of an API one by one, as far as its schema is known, otherwise all of them at
    /// once: where each event has a stream or topic of its own, the transport cannot name them.
    pub(crate) async fn each_event(&self, api: &str) -> Vec<EventSelector> {
        let schema = self.schema.find(api).await.ok().flatten();
        let events = schema.iter().flat_map(|schema| schema.events());
        let mut each: Vec<_> = events.map(|event| EventSelector::one(api, event)).collect();
        if each.is_empty() {
            each.push(EventSelector::all(api));
        }
        each
    }

    fn no_pattern(&self, pattern: &str) -> Error {
        const RULE: &str = "`*` stands for all events of one API, as in `auth.*`";
        let error = Error::new(
            ErrorKind::Config,
            format!("`{pattern}` is no event, nor all events of an API"),
        );
        let known = self.known_events();
        let mut meant: Vec<_> = known.iter().filter(|name| matches(pattern, name)).collect();
        if meant.is_empty() {
            meant.extend(
                nearest(pattern, known.iter().map(String::as_str))
                    .and_then(|near| known.iter().find(|name| *name == near)),
            );
        }
        let shown: Vec<_> = meant.iter().take(MOST_NAMED).map(|name| format!("`{name}`")).collect();
        if shown.is_empty() {
            return error.hint(format!("{RULE}: name each API, or each event"));
        }
        let more = if meant.len() > shown.len() { " or another" } else { "" };
        error.hint(format!("{RULE}. Did you mean {}{more}?", shown.join(" or ")))
    }

    /// Returns all events of known schemas, sorted, without those of internal APIs.
    fn known_events(&self) -> Vec<String> {
        let apis = self.schema.apis().into_iter().filter(|api| !api.starts_with("internal."));
        let known = apis.filter_map(|api| Some((Name::clone(&api), self.schema.get(&api)?)));
        let events = known.flat_map(|(api, schema)| {
            schema.events().map(|event| format!("{api}.{event}")).collect::<Vec<_>>()
        });
        let mut events: Vec<_> = events.collect();
        events.sort_unstable();
        events
    }

    /// Warns, in the background, about events that the schema of their API lacks, and about APIs
    /// without a schema whose name is near that of another. A service may listen before the other one
    /// has been started, so these are no errors.
    pub(crate) fn warn_of_unknown(self: &Arc<Self>, listener: &Name, events: Vec<EventSelector>) {
        let (inner, listener) = (Arc::downgrade(self), Name::clone(listener));
        let phase = self.watch();
        let events: Arc<[EventSelector]> = events.into();
        self.spawn_internal(&format!("names of listener {listener}"), move || {
            let (schema, mut phase) =
                (inner.upgrade().map(|inner| Arc::clone(&inner.schema)), phase.clone());
            let (listener, events) = (Name::clone(&listener), Arc::clone(&events));
            async move {
                let Some(schema) = schema else { return };
                tokio::select! {
                    () = drained(&mut phase) => {}
                    () = warn_of_unknown(&schema, &listener, &events) => {}
                }
            }
        });
    }
}

async fn warn_of_unknown(schema: &SchemaStore, listener: &str, events: &[EventSelector]) {
    for EventSelector { api, event } in events {
        // A broker that does not answer knows nothing about the name.
        let Ok(Ok(known)) = timeout(LOOK, schema.find(api)).await else { continue };
        let (what, near) = match (known, event) {
            (Some(_), None) => continue,
            (Some(schema), Some(event)) => {
                if schema.events().any(|known| *known == **event) {
                    continue;
                }
                let near = nearest(event, schema.events());
                (format!("{api}.{event}"), near.map(|near| format!("{api}.{near}")))
            }
            (None, event) => {
                let known = schema.apis();
                let Some(near) = nearest(api, known.iter().map(|name| &**name)) else { continue };
                let event = event.as_deref().unwrap_or("*");
                (format!("{api}.{event}"), Some(format!("{near}.{event}")))
            }
        };
        let hint = near.map(|near| format!(". Did you mean `{near}`?")).unwrap_or_default();
        tracing::warn!(listener, "the schemas on the bus have no `{what}`{hint}");
    }
}

/// Whether a pattern, in which `*` stands for any text, matches.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    let inner = name.strip_prefix(start).and_then(|name| name.strip_suffix(end));
    let Some(inner) = inner else { return false };
    // The first place of each part leaves the most for those behind it.
    let behind = |left: &'_ str, part: &str| left.split_once(part).map(|(_, left)| left.len());
    let mut left = inner;
    middle.split('*').all(|part| match behind(left, part) {
        Some(length) => {
            left = &left[left.len() - length..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_pattern_stands_for_what_its_writer_means() {
        for (pattern, name) in
            [("*.placed", "shop.placed"), ("shop.pl*", "shop.placed"), ("*.*", "shop.placed")]
        {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.placed", "shop.sent"), ("shop.pl*", "till.placed")] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
