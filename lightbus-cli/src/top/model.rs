//! What is known about a bus from the events of the plugins. It only counts, and has no clock: events
//! and times are given to it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use lightbus::EventMessage;
use serde::de::DeserializeOwned;

use super::rate::{INTERVALS, Rate, Summary, Times};

pub(super) const STATE: &str = "internal.state";
pub(super) const METRICS: &str = "internal.metrics";

/// The most processes, procedures and events that are remembered, each.
const MOST_ROWS: usize = 500;
/// The most calls and events in flight that are remembered.
const MOST_OPEN: usize = 20_000;
/// The most APIs of a process, and of events that it listens to, that are remembered.
const MOST_NAMES: usize = 200;
/// After this time a call or an event no longer counts as in flight: no metric reports that an event was
/// dead-lettered, or that a caller gave up.
const LONGEST: Duration = Duration::from_secs(60);
/// The longest ping interval that is believed.
const SELDOM: Duration = Duration::from_secs(86_400);
/// A process counts as gone after this many intervals without a ping.
const PINGS_MISSED: u32 = 3;
/// A process that is known from its metrics alone is forgotten after this time without any.
const SILENT: Duration = Duration::from_secs(30);

/// A process of the bus.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) service: String,
    pub(super) apis: Vec<String>,
    pub(super) listens_to: Vec<String>,
    /// Whether it reports its state: it has the plugin `internal_state`.
    pub(super) tells_state: bool,
    pub(super) tells_metrics: bool,
    pub(super) hostname: String,
    pub(super) pid: Option<u32>,
    /// In KiB.
    pub(super) memory: u64,
    /// It counts as gone after this time of silence; never, if it does not ping.
    silent: Option<Duration>,
    /// When it last sent an event.
    pub(super) seen: SystemTime,
}

impl Process {
    /// Learns what it serves and listens to from its metrics, unless it reports its state.
    fn does(&mut self, event: &EventMessage) {
        let names = match &*event.event {
            "rpc_call_received" => &mut self.apis,
            "event_received" => &mut self.listens_to,
            _ => return,
        };
        if self.tells_state || names.len() >= MOST_NAMES {
            return;
        }
        let mut name = text(event, "api_name");
        if &*event.event == "event_received" {
            name = format!("{name}.{}", text(event, "event_name"));
        }
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

/// What senders, or receivers, do with a procedure or an event.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub(super) begun: Rate,
    pub(super) done: Rate,
    /// Calls that failed; events that were retried.
    pub(super) failed: Rate,
    times: Times,
    pub(super) open: u64,
    pub(super) known: bool,
}

impl Side {
    pub(super) fn times(&self) -> Option<Summary> {
        self.times.summary()
    }

    fn tick(&mut self) {
        self.begun.tick();
        self.done.tick();
        self.failed.tick();
        self.times.tick();
    }
}

/// A procedure, or an event.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Callers, or those who fire it.
    pub(super) sender: Side,
    /// Workers, or listeners.
    pub(super) receiver: Side,
    seen: SystemTime,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Procedure,
    Event,
}

/// A call or an event in flight: kind, whether it is received, id, and the process (and listener).
type Open = (Kind, bool, String, String);

struct Begun {
    row: String,
    timestamp: f64,
    at: SystemTime,
}

/// Everything that is known.
#[derive(Default)]
pub(super) struct Model {
    pub(super) processes: BTreeMap<String, Process>,
    pub(super) procedures: BTreeMap<String, Row>,
    pub(super) events: BTreeMap<String, Row>,
    /// The service and name of each known listener, with an API that it listens to.
    pub(super) listeners: BTreeSet<(String, String, String)>,
    open: HashMap<Open, Begun>,
    intervals: VecDeque<Duration>,
    /// Whether any process has sent an event of `internal.state`, and of `internal.metrics`.
    pub(super) heard_state: bool,
    pub(super) heard_metrics: bool,
}

/// An argument of an event; `None` if it is missing or of another type.
fn argument<T: DeserializeOwned>(event: &EventMessage, name: &str) -> Option<T> {
    serde_json::from_slice(event.fields.get(name)?).ok()
}

/// A text that is shown, without what would move the terminal's cursor.
fn text(event: &EventMessage, name: &str) -> String {
    clean(&argument::<String>(event, name).unwrap_or_default())
}

fn texts(event: &EventMessage, name: &str) -> Vec<String> {
    let texts: Vec<String> = argument(event, name).unwrap_or_default();
    texts.iter().take(MOST_NAMES).map(|text| clean(text)).collect()
}

fn clean(text: &str) -> String {
    text.chars().filter(|sign| !sign.is_control()).take(200).collect()
}

impl Model {
    /// Learns from an event of `internal.state` or `internal.metrics`, fired at this time.
    pub(super) fn feed(&mut self, event: &EventMessage, at: SystemTime) {
        let (service, process) = (text(event, "service_name"), text(event, "process_name"));
        if process.is_empty() {
            return;
        }
        match &*event.api {
            STATE => self.feed_state(event, service, process, at),
            METRICS => {
                self.heard_metrics = true;
                self.feed_metrics(event, &process, at);
                if let Some(listener) = event.headers.get("listener")
                    && self.listeners.len() < MOST_ROWS
                {
                    let api = text(event, "api_name");
                    self.listeners.insert((service.clone(), listener.to_owned(), api));
                }
                // A process that only calls and fires, and does not report its state, may be a
                // short-lived script.
                let works = matches!(&*event.event, "rpc_call_received" | "event_received");
                if works || self.processes.contains_key(&process) {
                    let known = self.process(service, process, at);
                    known.tells_metrics = true;
                    known.seen = known.seen.max(at);
                    known.does(event);
                }
            }
            _ => {}
        }
    }

    fn process(&mut self, service: String, name: String, at: SystemTime) -> &mut Process {
        make_room(&mut self.processes, &name, |process| process.seen);
        self.processes.entry(name).or_insert_with(|| Process {
            service,
            apis: Vec::new(),
            listens_to: Vec::new(),
            tells_state: false,
            tells_metrics: false,
            hostname: String::new(),
            pid: None,
            memory: 0,
            silent: Some(SILENT),
            seen: at,
        })
    }

    fn feed_state(&mut self, event: &EventMessage, service: String, name: String, at: SystemTime) {
        self.heard_state = true;
        if &*event.event == "worker_stopped" {
            self.processes.remove(&name);
            return;
        }
        let pings = argument(event, "ping_enabled").unwrap_or(true);
        let interval: f64 = argument(event, "ping_interval").unwrap_or(60.0);
        let interval = Duration::try_from_secs_f64(interval).unwrap_or(LONGEST).min(SELDOM);
        let process = self.process(service, name, at);
        process.tells_state = true;
        process.apis = texts(event, "api_names");
        process.listens_to = texts(event, "listening_for");
        process.tells_metrics |= argument::<bool>(event, "metrics_enabled").unwrap_or_default();
        process.hostname = text(event, "hostname");
        process.pid = argument(event, "pid");
        process.memory = argument(event, "max_memory_use").unwrap_or_default();
        // Two seconds more, because the last ping may still be on its way.
        process.silent = pings.then(|| interval * PINGS_MISSED + Duration::from_secs(2));
        process.seen = process.seen.max(at);
    }

    fn feed_metrics(&mut self, event: &EventMessage, process: &str, at: SystemTime) {
        let (kind, id, name) = match &*event.event {
            name if name.starts_with("rpc_") => (Kind::Procedure, "id", "procedure_name"),
            name if name.starts_with("event_") => (Kind::Event, "event_id", "event_name"),
            _ => return,
        };
        let (id, api, name) = (text(event, id), text(event, "api_name"), text(event, name));
        if api.is_empty() || name.is_empty() {
            return;
        }
        let row = format!("{api}.{name}");
        let timestamp: f64 = argument(event, "timestamp").unwrap_or(f64::NAN);
        let failed = event.headers.get("failed").is_some();
        let receives =
            !matches!(&*event.event, "rpc_call_sent" | "rpc_response_received" | "event_fired");
        // Several listeners of a process may handle the same event.
        let listener = event.headers.get("listener").unwrap_or_default();
        let key = (kind, receives, id, format!("{process} {listener}"));
        let rows = match kind {
            Kind::Procedure => &mut self.procedures,
            Kind::Event => &mut self.events,
        };
        make_room(rows, &row, |row| row.seen);
        let known = rows.entry(row.clone()).or_insert_with(|| Row {
            sender: Side::default(),
            receiver: Side::default(),
            seen: at,
        });
        known.seen = known.seen.max(at);
        let side = if receives { &mut known.receiver } else { &mut known.sender };
        side.known = true;
        match &*event.event {
            "rpc_call_sent" | "rpc_call_received" | "event_received" => {
                side.begun.count();
                if self.open.contains_key(&key) {
                    // Received again, so the previous attempt failed. Without the name of the
                    // listener, as from Python, it may be another listener.
                    if kind == Kind::Event && !listener.is_empty() {
                        side.failed.count();
                    }
                } else if self.open.len() < MOST_OPEN {
                    side.open += 1;
                }
                if self.open.len() < MOST_OPEN || self.open.contains_key(&key) {
                    self.open.insert(key, Begun { row, timestamp, at });
                }
            }
            "rpc_response_sent" | "rpc_response_received" | "event_processed" => {
                side.done.count();
                if failed {
                    side.failed.count();
                }
                if let Some(begun) = self.open.remove(&key) {
                    side.open = side.open.saturating_sub(1);
                    side.times.note(timestamp - begun.timestamp);
                }
            }
            "event_fired" => side.done.count(),
            _ => {}
        }
    }

    /// Ends an interval of this length.
    pub(super) fn tick(&mut self, now: SystemTime, took: Duration) {
        if self.intervals.len() == INTERVALS {
            self.intervals.pop_front();
        }
        self.intervals.push_back(took);
        for row in self.procedures.values_mut().chain(self.events.values_mut()) {
            row.sender.tick();
            row.receiver.tick();
        }
        let since = |at: SystemTime| now.duration_since(at).unwrap_or_default();
        self.processes
            .retain(|_, process| process.silent.is_none_or(|most| since(process.seen) <= most));
        let over = |begun: &Begun| since(begun.at) > LONGEST;
        let given_up: Vec<Open> =
            self.open.iter().filter(|(_, begun)| over(begun)).map(|(key, _)| key.clone()).collect();
        for key in given_up {
            let Some(begun) = self.open.remove(&key) else { continue };
            let rows = match key.0 {
                Kind::Procedure => &mut self.procedures,
                Kind::Event => &mut self.events,
            };
            if let Some(row) = rows.get_mut(&begun.row) {
                let side = if key.1 { &mut row.receiver } else { &mut row.sender };
                side.open = side.open.saturating_sub(1);
            }
        }
    }

    /// The time that the rates cover.
    pub(super) fn window(&self) -> Duration {
        self.intervals.iter().sum()
    }
}

/// Removes the entry that was seen longest ago, if a new one would be too many.
fn make_room<T>(rows: &mut BTreeMap<String, T>, name: &str, seen: impl Fn(&T) -> SystemTime) {
    if rows.len() < MOST_ROWS || rows.contains_key(name) {
        return;
    }
    let oldest = rows.iter().min_by_key(|(_, row)| seen(row)).map(|(name, _)| name.clone());
    if let Some(oldest) = oldest {
        rows.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use lightbus::Arguments;
    use serde_json::{Value, json};

    use super::*;

    fn event(api: &str, name: &str, fields: Value) -> EventMessage {
        let fields: Arguments = fields
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.as_str().into(), value.to_string().into()))
            .collect();
        EventMessage::new("id", api, name, 1, fields)
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn ping(name: &str, process: &str, more: Value) -> EventMessage {
        let mut fields = json!({
            "service_name": "shop", "process_name": process, "api_names": ["shop"],
            "listening_for": ["auth.*"], "ping_enabled": true, "ping_interval": 10,
            "hostname": "host", "pid": 7, "max_memory_use": 2048, "metrics_enabled": true,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            fields[name] = value.clone();
        }
        event(STATE, name, fields)
    }

    fn metric(name: &str, id: &str, timestamp: f64) -> EventMessage {
        event(
            METRICS,
            name,
            json!({
                "service_name": "shop", "process_name": "web-1", "api_name": "auth", "id": id,
                "event_id": id, "procedure_name": "check", "event_name": "registered",
                "timestamp": timestamp,
            }),
        )
    }

    fn with(mut event: EventMessage, header: &str, value: &str) -> EventMessage {
        event.headers.set(header, value);
        event
    }

    #[test]
    fn a_process_lives_while_it_pings() {
        let mut model = Model::default();
        model.feed(&ping("worker_started", "web-1", json!({})), at(0));
        model.feed(&ping("worker_started", "web-2", json!({})), at(0));
        model.feed(&ping("worker_started", "quiet", json!({ "ping_enabled": false })), at(0));
        model.feed(&ping("worker_ping", "web-1", json!({})), at(20));
        model.tick(at(33), Duration::from_secs(1));
        let names: Vec<_> = model.processes.keys().map(String::as_str).collect();
        assert_eq!(names, ["quiet", "web-1"], "web-2 has missed three pings");
        let web = &model.processes["web-1"];
        assert_eq!((web.service.as_str(), web.pid, web.seen), ("shop", Some(7), at(20)));
        assert!(web.tells_state && web.tells_metrics && model.heard_state);
        model.feed(&ping("worker_stopped", "web-1", json!({})), at(34));
        model.feed(&ping("worker_stopped", "unknown", json!({})), at(34));
        assert_eq!(model.processes.len(), 1);
    }

    #[test]
    fn calls_are_counted_on_both_sides_with_their_times_and_errors() {
        let mut model = Model::default();
        for (id, start) in [("a", 1.0), ("b", 2.0)] {
            model.feed(&metric("rpc_call_sent", id, start), at(1));
            model.feed(&metric("rpc_call_received", id, start + 0.1), at(1));
        }
        model.feed(&metric("rpc_response_sent", "a", 1.3), at(1));
        model.feed(&with(metric("rpc_response_sent", "b", 2.3), "failed", "true"), at(1));
        model.feed(&metric("rpc_response_received", "a", 1.5), at(1));
        model.tick(at(2), Duration::from_secs(2));
        assert_eq!(model.processes["web-1"].apis, ["auth"], "known from its metrics");
        let row = &model.procedures["auth.check"];
        let window = model.window();
        let near = |value: f64, expected: f64| assert!((value - expected).abs() < 1e-6, "{value}");
        near(row.receiver.done.per_second(window), 1.0);
        near(row.receiver.failed.per_second(window), 0.5);
        near(row.receiver.times().unwrap_or_default().mean, 0.2);
        near(row.sender.begun.per_second(window), 1.0);
        near(row.sender.times().unwrap_or_default().longest, 0.5);
        assert_eq!((row.sender.open, row.receiver.open), (1, 0), "b was not answered");
        model.tick(at(2) + LONGEST, Duration::from_secs(1));
        assert_eq!(model.procedures["auth.check"].sender.open, 0, "and no longer counts");
        assert!(model.open.is_empty());
        assert!(model.processes.is_empty(), "it has been silent");
    }

    #[test]
    fn an_event_received_twice_by_a_listener_was_retried() {
        let mut model = Model::default();
        model.feed(&metric("event_fired", "a", 1.0), at(1));
        for listener in ["mail", "mail", "count"] {
            model.feed(&with(metric("event_received", "a", 1.0), "listener", listener), at(1));
        }
        model.feed(&with(metric("event_processed", "a", 1.5), "listener", "mail"), at(1));
        // Python does not name the listener, so this may be another one.
        model.feed(&metric("event_received", "b", 1.0), at(1));
        model.feed(&metric("event_received", "b", 1.0), at(1));
        model.tick(at(2), Duration::from_secs(1));
        let (row, window) = (&model.events["auth.registered"], model.window());
        assert!((row.receiver.failed.per_second(window) - 1.0).abs() < 1e-6);
        assert!((row.sender.done.per_second(window) - 1.0).abs() < 1e-6);
        assert_eq!(row.receiver.open, 2);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut model = Model::default();
        for number in 0..(MOST_ROWS as u64 + 100) {
            let process = format!("web-{number}");
            model.feed(&ping("worker_ping", &process, json!({})), at(number));
            let mut call = metric("rpc_call_received", &number.to_string(), 1.0);
            call.fields.push("procedure_name", json!(process).to_string().into_bytes());
            model.feed(&call, at(number));
        }
        assert_eq!(model.processes.len(), MOST_ROWS);
        assert_eq!(model.procedures.len(), MOST_ROWS);
        for number in 0..(MOST_OPEN + 100) {
            model.feed(&metric("rpc_call_received", &format!("x{number}"), 1.0), at(1));
        }
        assert!(model.open.len() <= MOST_OPEN);
    }

    #[test]
    fn malformed_events_are_ignored() {
        let mut model = Model::default();
        for strange in [
            event(STATE, "worker_ping", json!({})),
            event(STATE, "worker_ping", json!({ "process_name": 7 })),
            event(METRICS, "rpc_call_sent", json!({ "process_name": "a" })),
            event(METRICS, "later", json!({ "process_name": "a" })),
            event("auth", "registered", json!({ "process_name": "a" })),
            ping(
                "worker_ping",
                "a",
                json!({ "ping_interval": -1, "api_names": "none", "pid": -7 }),
            ),
            ping("worker_ping", "b\u{1b}[2J", json!({ "ping_interval": 1e300 })),
        ] {
            model.feed(&strange, at(1));
        }
        model.tick(at(2), Duration::ZERO);
        assert!(model.procedures.is_empty() && model.events.is_empty());
        let names: Vec<_> = model.processes.keys().map(String::as_str).collect();
        assert_eq!(names, ["a", "b[2J"]);
    }
}
