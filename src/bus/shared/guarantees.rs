//! Checking what an API requires against what its transports can do.

use lightbus_core::{Capabilities, Error, ErrorKind, Result};

use super::{ApiEntry, Inner};
use crate::{config::OnMissing, contract::Contract};

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
            let error = self.cannot(contract, &entry, kind, missing);
            match entry.config.on_missing {
                OnMissing::Refuse => return Err(error),
                OnMissing::Warn => {
                    tracing::warn!(%error, "an API requires what its transport cannot do");
                }
            }
        }
        Ok(())
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

/// Returns what a contract requires and these capabilities lack.
fn missing(contract: &Contract, has: Capabilities) -> impl Iterator<Item = &'static str> {
    let required = contract.requires.iter().copied();
    required.filter(move |name| !has.iter().any(|(known, is)| known == *name && is))
}
