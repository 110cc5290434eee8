//! Renews the leases of events in flight, so that no other process takes them for abandoned.
//!
//! Redis measures how long an entry has been pending. Claiming it for its own consumer resets that time.

use std::{collections::HashSet, sync::Arc, time::Duration};

use lightbus_core::{Result, Upkeep};
use tokio::time::Instant;

use super::{entry::EntryId, source::Listener};
use crate::{client::Client, error::Sent, value};

/// The most entries that one command renews.
const PAGE: usize = 1000;

/// Starts to renew, until what it returns is dropped.
pub(super) fn keep_leases(
    client: Arc<Client>,
    listener: Arc<Listener>,
    timeout: Duration,
) -> Upkeep {
    let interval = (timeout / 3).max(Duration::from_millis(5));
    Upkeep::start("renewing the leases of events", move || {
        let (client, listener) = (Arc::clone(&client), Arc::clone(&listener));
        async move {
            loop {
                tokio::time::sleep(interval).await;
                if let Err(error) = renew(&client, &listener, interval).await {
                    tracing::debug!(%error, "the leases of events in flight could not be renewed");
                }
            }
        }
    })
}

async fn renew(client: &Client, listener: &Listener, interval: Duration) -> Result<()> {
    for stream in &listener.streams {
        let now = Instant::now();
        // Renewed half an interval early rather than one late.
        let Some(since) = now.checked_sub(interval / 2) else { continue };
        for ids in stream.in_flight.due(since).chunks(PAGE) {
            let (Some(first), Some(last)) = (ids.first(), ids.last()) else { continue };
            let mut pending = redis::cmd("XPENDING");
            pending.arg(&stream.key).arg(&listener.group).arg(first.to_string());
            pending.arg(last.to_string()).arg(PAGE).arg(&listener.consumer);
            let ours = client.command(&pending, Sent::Harmless).await?;
            let ids: HashSet<EntryId> = ids.iter().copied().collect();
            // Entries that another process has taken over stay with it.
            let ours: Vec<EntryId> = value::items(ours)
                .unwrap_or_default()
                .into_iter()
                .filter_map(value::items)
                .filter_map(|entry| EntryId::parse(value::text(entry.first()?)?))
                .filter(|id| ids.contains(id))
                .collect();
            if !ours.is_empty() {
                let mut claim = redis::cmd("XCLAIM");
                claim.arg(&stream.key).arg(&listener.group).arg(&listener.consumer).arg(0);
                for id in &ours {
                    claim.arg(id.to_string());
                }
                claim.arg("JUSTID");
                client.command(&claim, Sent::Harmless).await?;
                stream.in_flight.renewed(&ours, now);
            }
        }
    }
    Ok(())
}
