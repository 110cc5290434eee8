//! Firing events of an API that other processes serve.

use std::future::IntoFuture;

use futures_util::future::BoxFuture;
use lightbus_core::{Args, Arguments, Error, ErrorKind, Result, name};

use super::Admin;
use crate::bus::{
    events::Fired,
    shared::{Bus, Inner, at},
};

impl Admin {
    /// Fires an event of an API that another process serves, according to the API's schema on the bus.
    /// For tools that stand in for a service in an emergency or a test. A service
    /// [registers](crate::Bus::register) its API and uses [`fire_event`](crate::Bus::fire_event).
    ///
    /// The event is always validated against the schema. It has the ordering key that the schema names,
    /// and the version that the schema names, or 1 if the schema names none, as those of Python: then set
    /// it with [`version`](FireOnBehalf::version).
    ///
    /// # Delivery
    ///
    /// That of [`fire`](crate::Bus::fire).
    ///
    /// # Errors
    ///
    /// [`Unknown`](ErrorKind::Unknown) if the API has no schema on the bus, or if the schema has no such
    /// event; otherwise those of [`fire`](crate::Bus::fire).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the event may or may not have been sent.
    pub fn fire_on_behalf(&self, event: &str, args: impl Into<Args>) -> FireOnBehalf {
        let fields = args.into().into_fields();
        FireOnBehalf { bus: self.bus.clone(), event: event.to_owned(), fields, version: None }
    }
}

/// An event of an API that another process serves. Await it to fire it. Returned by
/// [`Admin::fire_on_behalf`].
#[derive(Debug)]
#[must_use = "nothing is fired until it is awaited"]
pub struct FireOnBehalf {
    bus: Bus,
    event: String,
    fields: Result<Arguments>,
    version: Option<u32>,
}

impl FireOnBehalf {
    /// Sets the event's version of the API, in place of the schema's.
    pub fn version(mut self, version: u32) -> Self {
        self.version = Some(version);
        self
    }

    async fn fire(self) -> Result<Fired> {
        let (api, name) = name::split(&self.event)?;
        let inner = self.bus.inner();
        inner.ensure_open()?;
        let fields = self.fields?;
        let schema = inner.schema.find(api).await;
        let schema = schema.map_err(|error| at(&**inner.schema.transport(), error))?;
        let schema = schema.ok_or_else(|| inner.no_schema(api))?;
        schema.check_event(name, &fields)?;
        let version = self.version.unwrap_or_else(|| schema.version());
        let key = schema.key_in(name, &fields);
        inner.send_event(api, name, version, fields, key).await
    }
}

impl IntoFuture for FireOnBehalf {
    type Output = Result<Fired>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let during = format!("firing {}", self.event);
        Box::pin(async move { self.fire().await.map_err(|error| error.during(during)) })
    }
}

impl Inner {
    fn no_schema(&self, api: &str) -> Error {
        let known = self.schema.apis();
        Error::new(ErrorKind::Unknown, format!("the API `{api}` has no schema on the bus"))
            .hint("Some process must serve the API, or have served it a moment ago")
            .did_you_mean(api, known.iter().map(|name| &**name))
    }
}
