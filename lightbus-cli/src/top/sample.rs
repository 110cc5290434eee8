//! The state of the bus at one time: what the view, the text and the JSON show.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{
    figures::{Figures, MOST_LETTERS},
    model::{Model, Row, Side},
};
use crate::output;

/// How rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Name,
    /// The busiest first.
    Busiest,
}

#[derive(Debug, Serialize)]
pub(super) struct Sample {
    pub(super) time: String,
    /// The brokers.
    pub(super) bus: Vec<String>,
    /// For how long the bus has been watched, and the time that the rates cover.
    pub(super) watched_seconds: f64,
    pub(super) rates_of_seconds: f64,
    pub(super) plugins: Plugins,
    pub(super) services: usize,
    pub(super) processes: Vec<Process>,
    pub(super) apis: Vec<Api>,
    pub(super) procedures: Vec<Procedure>,
    pub(super) events: Vec<Event>,
    pub(super) groups: Vec<Group>,
    /// What is missing, and why.
    pub(super) notes: Vec<String>,
}

/// Whether any process has the plugins that report state and metrics.
#[derive(Debug, Serialize)]
pub(super) struct Plugins {
    pub(super) internal_state: bool,
    pub(super) internal_metrics: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Process {
    pub(super) service: String,
    pub(super) process: String,
    pub(super) host: String,
    pub(super) pid: Option<u32>,
    pub(super) apis: Vec<String>,
    pub(super) listens_to: Vec<String>,
    pub(super) most_memory_kib: u64,
    pub(super) heard_seconds_ago: f64,
    pub(super) tells_metrics: bool,
}

#[derive(Debug, Serialize)]
pub(super) struct Api {
    pub(super) api: String,
    /// Processes that serve it or fire its events.
    pub(super) processes: usize,
    pub(super) calls_queued: Option<u64>,
    pub(super) events_stored: Option<u64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Procedure {
    pub(super) procedure: String,
    pub(super) calls_per_second: f64,
    pub(super) failed_per_second: f64,
    pub(super) under_way: u64,
    /// Duration at the worker; at the caller, if only callers report.
    pub(super) mean_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
    pub(super) longest_ms: Option<f64>,
    /// Duration at the caller, until it has the result.
    pub(super) caller_p95_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Event {
    pub(super) event: String,
    pub(super) fired_per_second: f64,
    pub(super) handled_per_second: f64,
    pub(super) tried_again_per_second: f64,
    pub(super) under_way: u64,
    pub(super) mean_ms: Option<f64>,
    pub(super) p95_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Group {
    pub(super) group: String,
    pub(super) api: String,
    pub(super) consumers: Option<usize>,
    pub(super) waiting: Option<u64>,
    pub(super) pending: u64,
    pub(super) oldest_seconds: Option<f64>,
    pub(super) dead_letters: Option<usize>,
    /// Whether there are more dead letters than were counted.
    pub(super) more_dead_letters: bool,
}

/// How to see more.
pub(super) const NO_STATE: &str = "No process reports its state. In the configuration of the services, \
                                   set plugins: { internal_state: { enabled: true } }";
pub(super) const NO_METRICS: &str = "No process reports metrics: rates and durations are unknown. In the \
                                     configuration of the services, set plugins: { \
                                     internal_metrics: { enabled: true } }";
pub(super) const LEFT_OUT: &str = "More events were fired than can be read in an interval: rates are \
                                   too low.";
pub(super) const MORE: &str = "There are more APIs or groups than are shown.";

impl Sample {
    pub(super) fn new(
        model: &Model,
        figures: &Figures,
        left_out: bool,
        watched: Duration,
        now: SystemTime,
    ) -> Self {
        let window = model.window();
        let of = |api: &str| {
            model.processes.values().filter(|one| one.apis.iter().any(|name| name == api)).count()
        };
        let plugin = |heard: bool, api: &str| heard || figures.plugins.contains(api);
        let tells = model.processes.values().any(|process| process.tells_metrics);
        let plugins = Plugins {
            internal_state: plugin(model.heard_state, super::model::STATE),
            internal_metrics: plugin(model.heard_metrics || tells, super::model::METRICS),
        };
        let notes = [
            (!plugins.internal_state, NO_STATE),
            (!plugins.internal_metrics, NO_METRICS),
            (left_out, LEFT_OUT),
            (figures.more, MORE),
        ];
        let services = model.processes.values().map(|process| process.service.as_str());
        let services = services.collect::<BTreeSet<_>>().len();
        Self {
            time: output::timestamp(now),
            bus: figures.brokers.iter().cloned().collect(),
            watched_seconds: round(watched.as_secs_f64()),
            rates_of_seconds: round(window.as_secs_f64()),
            plugins,
            services,
            processes: processes(model, now),
            apis: figures
                .apis
                .iter()
                .map(|api| Api {
                    api: api.name.clone(),
                    processes: of(&api.name),
                    calls_queued: api.queued,
                    events_stored: api.stored,
                })
                .collect(),
            procedures: model
                .procedures
                .iter()
                .map(|(name, row)| Procedure::new(name, row, window))
                .collect(),
            events: model.events.iter().map(|(name, row)| Event::new(name, row, window)).collect(),
            groups: figures.groups.iter().map(Group::new).collect(),
            notes: notes
                .into_iter()
                .filter(|(is, _)| *is)
                .map(|(_, note)| note.to_owned())
                .collect(),
        }
    }

    pub(super) fn sort(&mut self, sort: Sort) {
        self.processes.sort_by(|a, b| (&a.service, &a.process).cmp(&(&b.service, &b.process)));
        self.apis.sort_by(|a, b| a.api.cmp(&b.api));
        self.procedures.sort_by(|a, b| a.procedure.cmp(&b.procedure));
        self.events.sort_by(|a, b| a.event.cmp(&b.event));
        self.groups.sort_by(|a, b| (&a.group, &a.api).cmp(&(&b.group, &b.api)));
        if sort == Sort::Busiest {
            // Stable: rows that are equally busy stay in the order of their names.
            self.busiest_first();
        }
    }

    fn busiest_first(&mut self) {
        let busier = |a: f64, b: f64| b.total_cmp(&a);
        self.processes.sort_by(|a, b| busier(b.heard_seconds_ago, a.heard_seconds_ago));
        self.apis.sort_by_key(|api| std::cmp::Reverse(api.calls_queued.max(api.events_stored)));
        self.procedures.sort_by(|a, b| busier(a.calls_per_second, b.calls_per_second));
        self.events.sort_by(|a, b| {
            let sum = |event: &Event| event.fired_per_second + event.handled_per_second;
            busier(sum(a), sum(b))
        });
        self.groups.sort_by_key(|group| {
            let dead = group.dead_letters.unwrap_or(0) as u64;
            std::cmp::Reverse(group.waiting.unwrap_or(0).saturating_add(group.pending + dead))
        });
    }
}

fn processes(model: &Model, now: SystemTime) -> Vec<Process> {
    let rows = model.processes.iter().map(|(name, process)| Process {
        service: process.service.clone(),
        process: name.clone(),
        host: process.hostname.clone(),
        pid: process.pid,
        apis: process.apis.clone(),
        listens_to: process.listens_to.clone(),
        most_memory_kib: process.memory,
        heard_seconds_ago: round(
            now.duration_since(process.seen).unwrap_or_default().as_secs_f64(),
        ),
        tells_metrics: process.tells_metrics,
    });
    rows.collect()
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn ms(seconds: f64) -> f64 {
    round(seconds * 1000.0)
}

impl Procedure {
    fn new(name: &str, row: &Row, window: Duration) -> Self {
        let side: &Side = if row.receiver.known { &row.receiver } else { &row.sender };
        let (times, waits) = (side.times(), row.sender.times());
        Self {
            procedure: name.to_owned(),
            calls_per_second: round(side.begun.per_second(window)),
            failed_per_second: round(side.failed.per_second(window)),
            under_way: side.open,
            mean_ms: times.map(|times| ms(times.mean)),
            p95_ms: times.map(|times| ms(times.p95)),
            longest_ms: times.map(|times| ms(times.longest)),
            caller_p95_ms: waits.map(|times| ms(times.p95)),
        }
    }
}

impl Event {
    fn new(name: &str, row: &Row, window: Duration) -> Self {
        let times = row.receiver.times();
        Self {
            event: name.to_owned(),
            fired_per_second: round(row.sender.done.per_second(window)),
            handled_per_second: round(row.receiver.done.per_second(window)),
            tried_again_per_second: round(row.receiver.failed.per_second(window)),
            under_way: row.receiver.open,
            mean_ms: times.map(|times| ms(times.mean)),
            p95_ms: times.map(|times| ms(times.p95)),
        }
    }
}

impl Group {
    fn new(group: &super::figures::Group) -> Self {
        Self {
            group: group.name.clone(),
            api: group.api.clone(),
            consumers: group.consumers,
            waiting: group.waiting,
            pending: group.pending,
            oldest_seconds: group.oldest.map(|oldest| round(oldest.as_secs_f64())),
            dead_letters: group.dead.map(|count| count.min(MOST_LETTERS)),
            more_dead_letters: group.dead.is_some_and(|count| count > MOST_LETTERS),
        }
    }
}
