//! Firing events of an API that other processes serve: for tools, not for services.

use lightbus_core::{Args, Error, ErrorKind, Result, name};

use super::Admin;
use crate::{
    bus::{
        events::Fired,
        shared::{Inner, at},
    },
    config::nearest,
};

impl Admin {
    /// Fires an event of an API that another process serves, by the schema that is on the bus. For
    /// tools that stand in for a service, in an emergency or a test: a service
    /// [registers](crate::Bus::register) its API and uses [`fire_event`](crate::Bus::fire_event).
    ///
    /// The event is always checked against the schema, and has the version that it names.
    ///
    /// # Delivery
    ///
    /// As [`fire`](crate::Bus::fire).
    ///
    /// # Errors
    ///
    /// [`Unknown`](ErrorKind::Unknown) if the API has no schema on the bus, or its schema no such
    /// event; otherwise as [`fire`](crate::Bus::fire).
    ///
    /// # Cancel safety
    ///
    /// Dropped, the event was sent or it was not.
    pub async fn fire_on_behalf(&self, event: &str, args: impl Into<Args>) -> Result<Fired> {
        let fields = args.into().into_fields();
        let fired = async {
            let (api, name) = name::split(event)?;
            let inner = self.bus.inner();
            inner.ensure_open()?;
            let fields = fields?;
            let schema = inner.schema.find(api).await;
            let schema = schema.map_err(|error| at(&**inner.schema.transport(), error))?;
            let schema = schema.ok_or_else(|| inner.no_schema(api))?;
            schema.check_event(name, &fields)?;
            inner.send_event(api, name, schema.version(), fields, None).await
        };
        fired.await.map_err(|error| error.during(format!("firing {event}")))
    }
}

impl Inner {
    fn no_schema(&self, api: &str) -> Error {
        let known = self.schema.apis();
        let error =
            Error::new(ErrorKind::Unknown, format!("the API `{api}` has no schema on the bus"));
        match nearest(api, known.iter().map(|name| &**name)) {
            Some(known) => error.hint(format!("Did you mean `{known}`?")),
            None => error.hint("Some process must serve the API, or have served it a moment ago"),
        }
    }
}
