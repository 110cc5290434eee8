//! Firing events.

use lightbus_core::{Args, Arguments, Error, ErrorKind, EventMessage, Name, Result, name};
use tokio::time::timeout;

use crate::{
    bus::shared::{Bus, Inner, at},
    contract::{Event, EventContract},
};

/// The receipt for an event that the broker has confirmed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Fired {
    /// The event's id: the same for every listener and every delivery.
    pub id: Name,
    /// The broker's own id of the event.
    pub native_id: Name,
}

impl Bus {
    /// Fires an event. Returns once the broker has confirmed it.
    ///
    /// # Delivery
    ///
    /// At least once to each listener that the broker knows. Events fired one after the other keep
    /// their order on an `ordered` transport; events fired concurrently have none.
    ///
    /// # Errors
    ///
    /// [`Unknown`](ErrorKind::Unknown) unless this process is an authority of the API: it
    /// [serves](Self::serve) it or has [registered](Self::register) it.
    /// [`Invalid`](ErrorKind::Invalid) if the event does not match its schema.
    /// [`Unavailable`](ErrorKind::Unavailable) or [`Timeout`](ErrorKind::Timeout) if the broker did not
    /// confirm; the event may have been stored nevertheless.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the event may or may not have been sent.
    pub async fn fire<E: Event>(&self, event: E) -> Result<Fired> {
        let (api, name) = (E::api(), E::CONTRACT.name);
        // Dropped before the await, so that the event need not be `Sync`.
        let (fields, key) = (event.encode(), event.key());
        drop(event);
        let fired = async { self.inner().fire(api.name, name, fields?, Some(key)).await };
        fired.await.map_err(|error| error.during(format!("firing {}.{name}", api.name)))
    }

    /// Fires an event by name, such as `auth.user_registered`, without its type. Its ordering key,
    /// delivery, errors and cancellation are those of [`fire`](Self::fire).
    ///
    /// # Errors
    ///
    /// See [`fire`](Self::fire).
    pub async fn fire_event(&self, event: &str, args: impl Into<Args>) -> Result<Fired> {
        let fields = args.into().into_fields();
        let fired = async {
            let (api, name) = name::split(event)?;
            self.inner().fire(api, name, fields?, None).await
        };
        fired.await.map_err(|error| error.during(format!("firing {event}")))
    }
}

impl Inner {
    /// Fires an event with this key, or with the one that its contract says.
    async fn fire(
        &self,
        api: &str,
        event: &str,
        fields: Arguments,
        key: Option<Option<Name>>,
    ) -> Result<Fired> {
        self.ensure_open()?;
        let (version, declared) = self.authority(api, event)?;
        let key = key.unwrap_or_else(|| declared.key_in(&fields));
        self.send_event(api, event, version, fields, key).await
    }

    /// Sends an event, without checking that this process is an authority of the API.
    pub(crate) async fn send_event(
        &self,
        api: &str,
        event: &str,
        version: u32,
        fields: Arguments,
        key: Option<Name>,
    ) -> Result<Fired> {
        let entry = self.apis.entry(api);
        let id = self.ids.next();
        let mut message =
            EventMessage::new(Name::clone(&id), Name::clone(&entry.name), event, version, fields);
        message.key = key;
        if !self.plugins.is_empty() {
            // Boxed: without plugins, the future stays small.
            Box::pin(self.plugins.before_event_sent(&mut message)).await?;
        }
        entry.check_size(&message.fields)?;
        if let (true, Some(schema)) = (entry.config.validate.outgoing, self.schema.get(api)) {
            schema.check_event(event, &message.fields)?;
        }
        let sending = async {
            entry.open().await?;
            entry.event.send(std::slice::from_ref(&message)).await
        };
        let limit = entry.config.event_fire_timeout;
        let sent = timeout(limit, sending).await.unwrap_or_else(|_| {
            Err(Error::timeout("the broker did not confirm the event in time", limit)
                .retry(lightbus_core::Retry::MayDuplicate)
                .hint("It may have been stored nevertheless"))
        });
        let native_id = sent.map_err(|error| at(&*entry.event, error))?.into_iter().next();
        if !self.plugins.is_empty() {
            message.native_id = native_id.clone();
            Box::pin(self.plugins.after_event_sent(&message)).await;
        }
        Ok(Fired { native_id: native_id.unwrap_or_else(|| Name::clone(&id)), id })
    }

    /// Returns the version of an API whose events this process may fire, and the event's contract.
    fn authority(&self, api: &str, event: &str) -> Result<(u32, &'static EventContract)> {
        let Some(contract) = self.state().registered.get(api).copied() else {
            return Err(Error::new(
                ErrorKind::Unknown,
                format!(
                    "this process may not fire events of `{api}`: it has not registered the API"
                ),
            )
            .hint("Serve the API, or call `bus.register(…Client::contract())` first"));
        };
        if let Some(declared) = contract.event(event) {
            return Ok((contract.version, declared));
        }
        let names: Vec<_> = contract.events.iter().map(|event| event.name).collect();
        Err(Error::new(ErrorKind::Unknown, format!("the API has no event `{event}`"))
            .with("it has", if names.is_empty() { "none".to_owned() } else { names.join(", ") })
            .did_you_mean(event, names))
    }
}
