//! Inspecting brokers.

use lightbus_core::{
    Name, Result, Transport,
    transport::{Finding, Inspect, Location},
};

use super::Admin;
use crate::bus::shared::at;

/// Where one transport keeps the messages of an API.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Route {
    /// What it carries: `calls`, `events` or `schemas`.
    pub kind: &'static str,
    /// The transport's name in the configuration.
    pub transport: &'static str,
    /// Which broker it is, without secrets.
    pub broker: String,
    /// What the transport can do.
    pub capabilities: lightbus_core::Capabilities,
    /// The locations of the messages; `None` if the transport cannot report them.
    pub locations: Option<Vec<Location>>,
}

/// The diagnosis of a broker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The transport's name in the configuration.
    pub transport: &'static str,
    /// Which broker it is, without secrets.
    pub broker: String,
    /// The findings; `None` if the transport cannot diagnose its broker.
    pub findings: Option<Vec<Finding>>,
}

impl Admin {
    /// Returns where the messages of an API, or of one procedure or event of it, are on its brokers, and
    /// which consumers hold them. Consumes nothing.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if a broker does not answer.
    pub async fn locate(&self, api: &str, member: Option<&str>) -> Result<Vec<Route>> {
        self.bus.inner.ensure_open()?;
        let entry = self.bus.inner.apis.entry(&Name::from(api));
        entry.open().await?;
        Ok(vec![
            locate("calls", &*entry.rpc, api, member).await?,
            locate("events", &*entry.event, api, member).await?,
            locate("schemas", &**self.bus.inner.schema.transport(), api, None).await?,
        ])
    }

    /// Checks the settings of the brokers of the default transports against what the bus promises.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](lightbus_core::ErrorKind::Unavailable) if a broker does not answer.
    pub async fn diagnose(&self) -> Result<Vec<Diagnosis>> {
        self.bus.inner.ensure_open()?;
        let mut done: Vec<Diagnosis> = Vec::new();
        let entry = self.bus.inner.apis.entry("default");
        entry.open().await?;
        for transport in [
            Examined::of(&*entry.rpc),
            Examined::of(&*entry.event),
            Examined::of(&**self.bus.inner.schema.transport()),
        ] {
            let Examined { name, broker, inspect } = transport;
            let findings = match inspect {
                Some(inspect) => Some(
                    inspect
                        .diagnose()
                        .await
                        .map_err(|error| error.during(format!("diagnosing {name} {broker}")))?,
                ),
                None => None,
            };
            let is_same =
                |known: &&mut Diagnosis| known.transport == name && known.broker == broker;
            match done.iter_mut().find(is_same) {
                Some(known) => known.add(findings),
                None => done.push(Diagnosis { transport: name, broker, findings }),
            }
        }
        Ok(done)
    }
}

impl Diagnosis {
    /// Adds the findings of another transport on the same broker, without duplicates.
    fn add(&mut self, findings: Option<Vec<Finding>>) {
        let Some(findings) = findings else { return };
        let known = self.findings.get_or_insert_default();
        for finding in findings {
            if !known.contains(&finding) {
                known.push(finding);
            }
        }
    }
}

struct Examined<'a> {
    name: &'static str,
    broker: String,
    inspect: Option<&'a dyn Inspect>,
}

impl<'a> Examined<'a> {
    fn of<T: Transport + ?Sized>(transport: &'a T) -> Self {
        let (name, broker) = (transport.name(), transport.broker());
        Self { name, broker, inspect: transport.inspect() }
    }
}

async fn locate<T: Transport + ?Sized>(
    kind: &'static str,
    transport: &T,
    api: &str,
    member: Option<&str>,
) -> Result<Route> {
    let locations = match transport.inspect() {
        Some(inspect) => {
            let locations = inspect.locate(api, member).await;
            Some(locations.map_err(|error| {
                at(transport, error).during(format!("locating messages of {api}"))
            })?)
        }
        None => None,
    };
    Ok(Route {
        kind,
        transport: transport.name(),
        broker: transport.broker(),
        capabilities: transport.capabilities(),
        locations,
    })
}
