//! What happens when a new version of an API breaks its users.

use lightbus_core::{Error, ErrorKind, Result};

use super::{Change, Schema};
use crate::config::OnIncompatible;

/// Decides whether a schema may replace the one on the bus.
///
/// # Errors
///
/// [`ErrorKind::Config`], listing what breaks, if the policy refuses it.
pub(super) fn apply(policy: OnIncompatible, old: &Schema, new: &Schema) -> Result<()> {
    if policy == OnIncompatible::Ignore || old.document() == new.document() {
        return Ok(());
    }
    let api = new.api();
    let (users, others): (Vec<Change>, Vec<Change>) =
        Schema::compare(old, new).into_iter().partition(Change::breaks_users);
    for change in others {
        tracing::debug!(%api, "the schema differs from the one on the bus: {change}");
    }
    match policy {
        OnIncompatible::Refuse if !users.is_empty() => {
            let list: Vec<_> = users.iter().map(ToString::to_string).collect();
            Err(Error::new(
                ErrorKind::Config,
                format!(
                    "the schema of {api} breaks users of the one that is on the bus: {}",
                    list.join("; ")
                ),
            )
            .with("config", "bus.schema.on_incompatible: refuse")
            .hint(
                "Keep what they use in addition to what is new until all have been upgraded, or set `warn`",
            ))
        }
        _ => {
            for change in users {
                tracing::warn!(%api, "the schema breaks users of the one that is on the bus: {change}");
            }
            Ok(())
        }
    }
}
