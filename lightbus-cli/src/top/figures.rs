//! The figures of the brokers: what waits, who is behind, what was set aside.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use lightbus::{Bus, ErrorKind, bus::Route, transport::transport::Location};

use super::model::{METRICS, STATE};
use crate::failure::Failure;

/// The most APIs that are asked for, and events of an API, and groups.
const MOST: usize = 200;
/// So many dead letters are counted; of more it is said that there are more.
pub(super) const MOST_LETTERS: usize = 100;
/// How often dead letters are counted: that reads them.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What the brokers tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// The brokers, as `redis 127.0.0.1:6379/0`.
    pub(super) brokers: BTreeSet<String>,
    pub(super) apis: Vec<Api>,
    pub(super) groups: Vec<Group>,
    /// The plugins' APIs whose schemas are on the bus.
    pub(super) plugins: BTreeSet<String>,
    /// Some were left out.
    pub(super) more: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Api {
    pub(super) name: String,
    /// Calls that no worker has taken.
    pub(super) queued: Option<u64>,
    /// Events that the broker keeps.
    pub(super) stored: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) api: String,
    pub(super) waiting: Option<u64>,
    pub(super) pending: u64,
    /// For how long the oldest that is pending has been held.
    pub(super) oldest: Option<Duration>,
    pub(super) consumers: Option<usize>,
    /// Dead letters, at most one more than are counted.
    pub(super) dead: Option<usize>,
}

/// Asks again and again.
pub(super) struct Asker {
    bus: Bus,
    /// The dead letters of each group.
    letters: BTreeMap<String, Option<usize>>,
    counted: Option<Instant>,
}

/// A listener that was heard of: its service, its name, and an API it listens to.
pub(super) type Known = BTreeSet<(String, String, String)>;

impl Asker {
    pub(super) fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone(), letters: BTreeMap::new(), counted: None }
    }

    pub(super) async fn ask(&mut self, known: &Known) -> Result<Figures, Failure> {
        let mut figures = Figures::default();
        // Of a bus without APIs this tells at least where it is.
        figures.locate(&self.bus.admin().locate(STATE, None).await?);
        let (mut apis, mut seen) = (0, BTreeSet::new());
        for api in self.bus.remote_apis().await? {
            if [STATE, METRICS].contains(&&*api) {
                figures.plugins.insert(api.to_string());
                continue;
            }
            apis += 1;
            if apis > MOST {
                figures.more = true;
                break;
            }
            let parts = self.bus.admin().locate(&api, None).await?;
            figures.locate(&parts);
            let mut row = Api { name: api.to_string(), queued: None, stored: None };
            for part in parts {
                match part.kind {
                    "calls" => row.queued = sum(part.locations.iter().flatten()),
                    "events" => self.events(&mut figures, &mut row, part, known).await?,
                    _ => {}
                }
            }
            figures.apis.push(row);
        }
        figures.groups.retain(|group| seen.insert((group.name.clone(), group.api.clone())));
        figures.more |= figures.groups.len() > MOST;
        figures.groups.truncate(MOST);
        self.count_letters(&mut figures.groups).await?;
        Ok(figures)
    }

    async fn events(
        &self,
        figures: &mut Figures,
        row: &mut Api,
        part: Route,
        known: &Known,
    ) -> Result<(), Failure> {
        let tells_places = part.locations.is_some();
        let mut places = part.locations.unwrap_or_default();
        if tells_places && places.is_empty() {
            places = self.places_of_each(&row.name).await?;
        }
        row.stored = sum(places.iter());
        if part.capabilities.lag && places.iter().all(|place| place.groups.is_empty()) {
            return self.lag(figures, &row.name, known).await;
        }
        for place in places {
            for group in place.groups {
                let oldest = group.consumers.iter().filter_map(|one| one.oldest).max();
                figures.groups.push(Group {
                    name: group.name.to_string(),
                    api: row.name.clone(),
                    waiting: group.waiting,
                    pending: group.pending,
                    oldest,
                    consumers: Some(group.consumers.len()),
                    dead: None,
                });
            }
        }
        Ok(())
    }

    /// Where a transport has a place for each event, those of all events of an API.
    async fn places_of_each(&self, api: &str) -> Result<Vec<Location>, Failure> {
        let document = self.bus.schema(api).await?.unwrap_or_default();
        let mut places = Vec::new();
        for name in
            document["events"].as_object().into_iter().flatten().map(|(name, _)| name).take(MOST)
        {
            let parts = self.bus.admin().locate(api, Some(name)).await?;
            let events = parts.into_iter().filter(|part| part.kind == "events");
            places.extend(events.filter_map(|part| part.locations).flatten());
        }
        Ok(places)
    }

    /// What is behind of the listeners that were heard of, where the transport tells no groups.
    async fn lag(&self, figures: &mut Figures, api: &str, known: &Known) -> Result<(), Failure> {
        for (service, listener, _) in known.iter().filter(|(.., of)| of == api).take(MOST) {
            let lag = self.bus.admin().lag(api, service, listener).await?;
            figures.groups.push(Group {
                name: format!("{service}-{listener}"),
                api: api.to_owned(),
                waiting: Some(lag.waiting),
                pending: lag.pending,
                oldest: None,
                consumers: None,
                dead: None,
            });
        }
        Ok(())
    }

    async fn count_letters(&mut self, groups: &mut [Group]) -> Result<(), Failure> {
        let again = self.counted.is_none_or(|counted| counted.elapsed() >= COUNT_EVERY);
        if again {
            self.letters.clear();
            self.counted = Some(Instant::now());
        }
        for group in groups {
            if !self.letters.contains_key(&group.name) {
                let count = self.count(&group.name).await?;
                self.letters.insert(group.name.clone(), count);
            }
            group.dead = self.letters.get(&group.name).copied().flatten();
        }
        Ok(())
    }

    async fn count(&self, group: &str) -> Result<Option<usize>, Failure> {
        // However the two are told apart, together they are the group's name.
        let Some((service, listener)) = group.split_once('-') else { return Ok(None) };
        match self.bus.admin().dead_letters(service, listener, MOST_LETTERS + 1).await {
            Ok(letters) => Ok(Some(letters.len())),
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error.into()),
            // It keeps none, or does not let them be read.
            Err(_) => Ok(None),
        }
    }
}

impl Figures {
    fn locate(&mut self, parts: &[Route]) {
        let brokers = parts.iter().map(|part| format!("{} {}", part.transport, part.broker));
        self.brokers.extend(brokers);
    }
}

fn sum<'a>(places: impl Iterator<Item = &'a Location>) -> Option<u64> {
    places.filter_map(|place| place.messages).reduce(u64::saturating_add)
}
