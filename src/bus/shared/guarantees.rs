//! Checking what an API requires against what its transports can do.

use lightbus_core::{Capabilities, Error, ErrorKind, Result};

use super::{ApiEntry, Inner};
use crate::{config::OnMissing, contract::Contract};

/// The capabilities that depend on the keys of an API's events.
const OF_ORDER: [&str; 2] = ["ordered", "ordered_by_key"];

/// The capability that concerns calls too, not only events.
const OF_CALLS: &str = "shared";

impl Inner {
    /// Refuses, or warns about, an API that requires what the configured transports cannot do.
    pub(crate) fn check_guarantees(&self, contract: &Contract) -> Result<()> {
        let entry = self.apis.entry(contract.name);
        let mut lacks: Vec<(&str, Vec<&str>)> = Vec::new();
        for (kind, capabilities) in [
            ("event_transport", entry.event.capabilities()),
            ("rpc_transport", entry.rpc.capabilities()),
        ] {
            let concerns = |name: &str| kind == "event_transport" || name == OF_CALLS;
            let missing = missing(contract, capabilities);
            let missing: Vec<_> = missing.filter(|name| concerns(name)).collect();
            if !missing.is_empty() {
                lacks.push((kind, missing));
            }
        }
        for (kind, missing) in &lacks {
            let mut error = self.cannot(contract, &entry, kind, missing);
            let of_order = missing.iter().any(|name| OF_ORDER.contains(name));
            if of_order && entry.event.capabilities().ordered_by_key {
                error = self.lacks_keys(contract, error);
            }
            match entry.config.on_missing {
                OnMissing::Refuse => return Err(error),
                OnMissing::Warn => {
                    tracing::warn!(%error, "an API requires what its transport cannot do");
                }
            }
        }
        Ok(())
    }

    /// Explains that a transport keeps order by key, and which events have none.
    fn lacks_keys(&self, contract: &Contract, error: Error) -> Error {
        let keyless: Vec<_> = without_key(contract).collect();
        error
            .with("events without a key", keyless.join(", "))
            .hint(format!(
                "It keeps the order of events that share a key: declare one with `#[event(key = \"…\")]`, choose another transport, or accept it with `apis.{}.on_missing: warn`",
                self.config.section_of(contract.name),
            ))
    }

    fn cannot(&self, contract: &Contract, entry: &ApiEntry, kind: &str, missing: &[&str]) -> Error {
        let api = contract.name;
        let name = if kind == "event_transport" { entry.event.name() } else { entry.rpc.name() };
        let (path, origin) = self.config.place_of(api, kind);
        let missing = missing.join(", ");
        let error = Error::new(
            ErrorKind::Config,
            format!("`{api}` requires what the transport `{name}` cannot do: {missing}"),
        )
        .with("at", &path);
        let error = match origin.fact() {
            Some((what, where_)) => error.with(what, where_),
            None => error,
        };
        error.hint(format!(
            "Choose another transport at `{path}`, or accept it with `apis.{}.on_missing: warn`",
            self.config.section_of(api),
        ))
    }
}

/// Returns the names of the events that have no ordering key.
fn without_key(contract: &Contract) -> impl Iterator<Item = &'static str> {
    contract.events.iter().filter(|event| event.key.is_none()).map(|event| event.name)
}

/// Returns what a contract requires and these capabilities lack. Order by key is order for an API whose
/// events all have a key.
fn missing(contract: &Contract, has: Capabilities) -> impl Iterator<Item = &'static str> {
    let all_keyed = without_key(contract).next().is_none();
    let has_it = move |name: &str| match name {
        "ordered" => has.ordered || (has.ordered_by_key && all_keyed),
        "ordered_by_key" => has.ordered_by_key && (has.ordered || all_keyed),
        name => has.iter().any(|(known, is)| known == name && is),
    };
    contract.requires.iter().copied().filter(move |name| !has_it(name))
}
