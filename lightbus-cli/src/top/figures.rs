//! The figures of the brokers: backlogs, consumer groups, dead letters.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use lightbus::{
    Bus, ErrorKind,
    admin::{Location, Route},
};

use super::model::{METRICS, STATE};
use crate::{
    failure::Failure,
    listeners::{MOST, locations_of_each},
};

/// The most dead letters that are counted for a group.
pub(super) const MOST_LETTERS: usize = 100;
/// How often dead letters are counted, which means reading them.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// What the brokers report.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// The brokers, as `redis 127.0.0.1:6379/0`.
    pub(super) brokers: BTreeSet<String>,
    pub(super) apis: Vec<Api>,
    pub(super) groups: Vec<Group>,
    /// The APIs of plugins whose schemas are on the bus.
    pub(super) plugins: BTreeSet<String>,
    /// Whether some were left out.
    pub(super) more: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Api {
    pub(super) name: String,
    /// Calls that no worker has fetched.
    pub(super) queued: Option<u64>,
    /// Events that the broker stores.
    pub(super) stored: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) api: String,
    pub(super) waiting: Option<u64>,
    pub(super) pending: u64,
    /// How long the oldest pending event has been held.
    pub(super) oldest: Option<Duration>,
    pub(super) consumers: Option<usize>,
    /// Dead letters, at most [`MOST_LETTERS`] and one more.
    pub(super) dead: Option<usize>,
}

/// Asks the brokers, and remembers counts of dead letters.
pub(super) struct Asker {
    bus: Bus,
    /// The dead letters of each group.
    letters: BTreeMap<String, Option<usize>>,
    counted: Option<Instant>,
}

/// The known listeners: service, name, and an API that each listens to.
pub(super) type Known = BTreeSet<(String, String, String)>;

impl Asker {
    pub(super) fn new(bus: &Bus) -> Self {
        Self { bus: bus.clone(), letters: BTreeMap::new(), counted: None }
    }

    pub(super) async fn ask(&mut self, known: &Known) -> Result<Figures, Failure> {
        let mut figures = Figures::default();
        // Names the brokers even if the bus has no APIs.
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
            places = locations_of_each(&self.bus, &row.name).await?;
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

    /// The lag of the known listeners, for a transport that does not report groups.
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
        // Wherever it is split, the transport joins both again to the name of the group.
        let Some((service, listener)) = group.split_once('-') else { return Ok(None) };
        match self.bus.admin().dead_letters(service, listener, MOST_LETTERS + 1).await {
            Ok(letters) => Ok(Some(letters.len())),
            Err(error) if error.kind() == ErrorKind::Unavailable => Err(error.into()),
            // The transport keeps none, or cannot read them.
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
