//! The events of `internal.state` and `internal.metrics`, without taking them from other listeners:
//! read from the history that the broker keeps, or else received by a listener of its own, which is
//! deleted from the broker at the end.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::StreamExt;
use lightbus::{Bus, ErrorKind, EventMessage, Name, OnError};

use super::model::{METRICS, STATE};
use crate::{context::Context, failure::Failure};

/// The most events that are read in an interval.
const MOST_READ: usize = 20_000;
/// How far back the state of processes is read: by default they report it once a minute.
const LOOK_BACK: Duration = Duration::from_secs(600);
/// How far back the next read overlaps: an event may appear late, because clocks differ.
const OVERLAP: Duration = Duration::from_secs(2);
/// The service of the listener.
const SERVICE: &str = "lightbus-cli";

/// The events since the last read, oldest first.
#[derive(Default)]
pub(super) struct News {
    pub(super) events: Vec<(EventMessage, SystemTime)>,
    /// Whether there were more than can be read.
    pub(super) left_out: bool,
}

pub(super) enum Source {
    Past { state: Past, metrics: Past },
    Listener(Listener),
}

impl Source {
    pub(super) async fn open(context: &Context, bus: &Bus) -> Result<Self, Failure> {
        match bus.admin().history(&format!("{STATE}.*"), Some(SystemTime::now()), None).await {
            Ok(_) => Ok(Self::Past {
                state: Past::since(STATE, SystemTime::now().checked_sub(LOOK_BACK)),
                metrics: Past::from_now(bus, METRICS).await?,
            }),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                Ok(Self::Listener(Listener::open(context).await?))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn read(&mut self, bus: &Bus) -> Result<News, Failure> {
        match self {
            Self::Past { state, metrics } => {
                let mut news = state.read(bus).await?;
                let more = metrics.read(bus).await?;
                news.events.extend(more.events);
                news.left_out |= more.left_out;
                Ok(news)
            }
            Self::Listener(listener) => Ok(listener.read()),
        }
    }

    /// Removes the listener, if there is one, from the broker.
    pub(super) async fn close(self, bus: &Bus) -> Result<(), Failure> {
        match self {
            Self::Past { .. } => Ok(()),
            Self::Listener(listener) => listener.close(bus).await,
        }
    }
}

/// The position in the history of an API.
pub(super) struct Past {
    api: &'static str,
    from: Option<SystemTime>,
    /// The ids of events that the next read may overlap.
    seen: HashSet<Name>,
}

impl Past {
    fn since(api: &'static str, from: Option<SystemTime>) -> Self {
        Self { api, from, seen: HashSet::new() }
    }

    /// Starts after the newest event: by its time, because the clock of the broker differs from ours.
    async fn from_now(bus: &Bus, api: &'static str) -> Result<Self, Failure> {
        let mut past = Self::since(api, None);
        let mut events = bus.admin().history(&format!("{api}.*"), None, None).await?;
        if let Some(newest) = events.next().await {
            let newest = newest?;
            past.from = newest.time;
            past.seen.insert(newest.id);
        }
        Ok(past)
    }

    async fn read(&mut self, bus: &Bus) -> Result<News, Failure> {
        let mut found = bus.admin().history(&format!("{}.*", self.api), self.from, None).await?;
        let (mut news, mut seen, mut newest) = (News::default(), HashSet::new(), self.from);
        while let Some(event) = found.next().await {
            let event = event?;
            if seen.len() == MOST_READ {
                news.left_out = true;
                break;
            }
            let at = event.time.unwrap_or_else(SystemTime::now);
            newest = newest.max(Some(at));
            seen.insert(Name::clone(&event.id));
            if !self.seen.contains(&event.id) {
                news.events.push((event, at));
            }
        }
        // Ids of earlier reads are not needed: the next read starts later than those events.
        self.seen = seen;
        let again = newest.and_then(|newest| newest.checked_sub(OVERLAP));
        self.from = self.from.max(again);
        news.events.reverse();
        Ok(news)
    }
}

type Heard = Arc<Mutex<(VecDeque<(EventMessage, SystemTime)>, bool)>>;

/// A listener, with a consumer group that only this process has.
pub(super) struct Listener {
    bus: Bus,
    name: String,
    heard: Heard,
}

const EVENTS: [&str; 2] = ["internal.state.*", "internal.metrics.*"];

impl Listener {
    async fn open(context: &Context) -> Result<Self, Failure> {
        let bus = context.bus_of(SERVICE).await?;
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
        let name = format!("top-{}-{now}", std::process::id());
        let heard = Heard::default();
        let into = Arc::clone(&heard);
        let listen = bus.listen_to(&name, EVENTS, move |event| {
            let mut heard = into.lock().unwrap_or_else(PoisonError::into_inner);
            if heard.0.len() == MOST_READ {
                heard.0.pop_front();
                heard.1 = true;
            }
            let now = SystemTime::now();
            let at = event.time.unwrap_or(now);
            heard.0.push_back((EventMessage::clone(&event), at));
            std::future::ready(Ok(()))
        });
        listen.on_error(OnError::Acknowledge).await?;
        Ok(Self { bus, name, heard })
    }

    fn read(&self) -> News {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = std::mem::take(&mut heard.1);
        News { events: std::mem::take(&mut heard.0).into(), left_out }
    }

    async fn close(self, bus: &Bus) -> Result<(), Failure> {
        self.bus.close().await?;
        bus.admin().forget_listener(SERVICE, &self.name, EVENTS).await?;
        Ok(())
    }
}
