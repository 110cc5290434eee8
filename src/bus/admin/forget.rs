//! Forgetting a listener.

use lightbus_core::{Result, transport::GroupSpec};

use super::Admin;
use crate::bus::{
    events::{by_transport, selector},
    shared::at,
};

impl Admin {
    /// Makes the broker forget a listener that never comes back: how far it was, and all that waits
    /// for it. `events` are those it listened to. Stop its processes first: where one still listens,
    /// it does so in vain, or begins anew. Dead letters of it may go, too. For tools.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](lightbus_core::ErrorKind::Unsupported) if the transport cannot;
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if the broker does not answer.
    pub async fn forget_listener<'a>(
        &self,
        service: &str,
        listener: &str,
        events: impl IntoIterator<Item = &'a str>,
    ) -> Result<()> {
        self.bus.inner().ensure_open()?;
        let events: Vec<_> = events.into_iter().map(selector).collect::<Result<_>>()?;
        let group = GroupSpec::new(service, listener);
        for (entry, events) in by_transport(self.bus.inner(), events) {
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
