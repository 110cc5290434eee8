//! Reading past events, and the lag of listeners.

use futures_util::stream::BoxStream;
use lightbus_core::{
    EventMessage, Name, Result,
    transport::{EventTransport, GroupSpec, HistorySpec, Lag},
};
use std::{sync::Arc, time::SystemTime};

use super::Admin;
use crate::bus::shared::at;

impl Admin {
    /// Reads past events, newest first: those of one name (`auth.user_registered`) or all of an API
    /// (`auth.*`), optionally between two points in time.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](lightbus_core::ErrorKind::Unsupported) if the transport keeps no history;
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if the broker does not answer.
    pub async fn history(
        &self,
        events: &str,
        from: Option<SystemTime>,
        until: Option<SystemTime>,
    ) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let selector = self.bus.inner().selector(events)?;
        let transport = self.event_transport(&selector.api)?;
        let history = async {
            transport.open().await?;
            transport.history(HistorySpec { events: selector, from, until }).await
        };
        history.await.map_err(|error| {
            at(&*transport, error).during(format!("reading the history of {events}"))
        })
    }

    /// Returns the lag of a listener of a service with the events of an API.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](lightbus_core::ErrorKind::Unsupported) if the transport cannot report lag;
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if the broker does not answer.
    pub async fn lag(&self, api: &str, service: &str, listener: &str) -> Result<Lag> {
        let transport = self.event_transport(api)?;
        let group = GroupSpec::new(service, listener);
        let lag = async {
            transport.open().await?;
            transport.lag(&group, &self.bus.inner().each_event(api).await).await
        };
        lag.await
            .map_err(|error| at(&*transport, error).during(format!("measuring the lag of {group}")))
    }

    fn event_transport(&self, api: &str) -> Result<Arc<dyn EventTransport>> {
        self.bus.inner.ensure_open()?;
        Ok(Arc::clone(&self.bus.inner.apis.entry(&Name::from(api)).event))
    }
}
