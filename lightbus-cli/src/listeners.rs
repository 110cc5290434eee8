//! The consumer groups that the brokers report.

use std::collections::BTreeSet;

use lightbus::{
    Bus,
    admin::{GroupSpec, Location},
};

use crate::failure::Failure;

/// The most APIs, and events of an API, that the brokers are asked for.
pub(crate) const MOST: usize = 200;
/// The most groups that an error names.
const MOST_NAMED: usize = 10;

/// The locations of each event, for a transport that has one location per event and none per API.
pub(crate) async fn locations_of_each(bus: &Bus, api: &str) -> Result<Vec<Location>, Failure> {
    let document = bus.schema(api).await?.unwrap_or_default();
    let names = document["events"].as_object().into_iter().flatten().map(|(name, _)| name);
    let mut locations = Vec::new();
    for name in names.take(MOST) {
        let routes = bus.admin().locate(api, Some(name)).await?;
        let events = routes.into_iter().filter(|route| route.kind == "events");
        locations.extend(events.filter_map(|route| route.locations).flatten());
    }
    Ok(locations)
}

/// Fails if no listener of this name exists, as far as the brokers report: of a service whose APIs are
/// gone from the bus, or on a broker without such reports as RabbitMQ, nothing is known.
pub(crate) async fn must_be_known(bus: &Bus, service: &str, listener: &str) -> Result<(), Failure> {
    let wanted = GroupSpec::new(service, listener).name();
    let (mut groups, mut reporting, mut silent) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for api in bus.remote_apis().await?.iter().take(MOST) {
        let routes = bus.admin().locate(api, None).await?;
        for route in routes.into_iter().filter(|route| route.kind == "events") {
            let mut locations = route.locations.unwrap_or_default();
            if locations.is_empty() {
                locations = locations_of_each(bus, api).await?;
            }
            let found = locations.into_iter().flat_map(|location| location.groups);
            let before = groups.len();
            groups.extend(found.map(|group| group.name.to_string()));
            let broker = (route.transport, route.broker);
            if groups.len() > before {
                reporting.insert(broker)
            } else {
                silent.insert(broker)
            };
        }
    }
    // A name on the broker may have a prefix.
    let is_known = groups.iter().any(|group| group.ends_with(&*wanted));
    if is_known || groups.is_empty() || !silent.is_subset(&reporting) {
        return Ok(());
    }
    let hint = match nearest(&wanted, &groups) {
        Some(group) => format!("Did you mean `{group}`?"),
        None => {
            let named: Vec<_> = groups.iter().take(MOST_NAMED).map(String::as_str).collect();
            format!("The broker has {}", named.join(", "))
        }
    };
    Err(Failure::Failed(format!(
        "there is no listener `{listener}` of the service `{service}`. {hint}"
    )))
}

/// The group that a misspelt name most likely means.
fn nearest<'a>(name: &str, groups: &'a BTreeSet<String>) -> Option<&'a str> {
    groups
        .iter()
        .map(|group| (strsim::damerau_levenshtein(name, group), group.as_str()))
        .filter(|(distance, group)| *distance <= group.len().max(name.len()).div_ceil(3))
        .min()
        .map(|(_, group)| group)
}
