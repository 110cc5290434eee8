//! Deleting listeners.

use lightbus_core::{Result, transport::GroupSpec};

use super::Admin;
use crate::bus::{events::by_transport, shared::at};

impl Admin {
    /// Deletes a listener's consumer group from the broker, with its position and its backlog. `events`
    /// are the events that it listened to. Stop its processes first: one that still listens receives
    /// nothing more, or recreates the group. Its dead letters may be deleted, too.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](lightbus_core::ErrorKind::Unsupported) if the transport cannot;
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if the broker does not answer.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the group may have been deleted. Calling again is fine.
    pub async fn forget_listener<'a>(
        &self,
        service: &str,
        listener: &str,
        events: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        let inner = self.bus.inner();
        inner.ensure_open()?;
        let mut each = Vec::new();
        for path in events {
            let selector = inner.selector(path)?;
            match selector.event {
                Some(_) => each.push(selector),
                None => each.extend(inner.each_event(&selector.api).await),
            }
        }
        let group = GroupSpec::new(service, listener);
        for (entry, events) in by_transport(inner, each) {
            let forgotten = async {
                entry.open().await?;
                entry.event.forget(&group, &events).await
            };
            forgotten
                .await
                .map_err(|error| at(&*entry.event, error).during(format!("forgetting {group}")))?;
        }
        Ok(())
    }
}
