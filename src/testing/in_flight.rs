//! Counting work in flight: calls that wait for results, procedures that run, events that are being
//! sent, queued or handled.
//!
//! All work is counted where it begins and where it ends, so that a test can wait until none is left.
//! The race is between sending and handling: an event may be handled before `send` returns, so it is
//! expected *before* it is sent, and no longer expected if sending fails before any listener got it
//! (test `what_was_not_confirmed_is_not_waited_for`). An event counts until every group that wants it
//! has settled it and none of its deliveries is still held
//! (test `an_event_is_in_flight_until_every_group_has_settled_it`).

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lightbus_core::{EventMessage, Name, transport::ListenSpec};
use tokio::sync::{Notify, futures::Notified};

/// How many items of each kind an error names.
const NAMED: usize = 10;

#[derive(Debug, Default)]
pub(super) struct InFlight {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The number of pieces of work begun so far.
    begun: u64,
    work: BTreeMap<u64, (Work, String)>,
    groups: BTreeMap<Name, Group>,
}

/// Work that begins and ends in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A caller waits for a result.
    Call,
    /// A worker has taken a call.
    Procedure,
    /// An event is being sent to the broker.
    Fire,
}

/// Represents a piece of work. The work ends when this is dropped.
#[derive(Debug)]
pub(super) struct Ticket {
    in_flight: Arc<InFlight>,
    number: u64,
}

/// A consumer group of the test.
#[derive(Debug, Default)]
struct Group {
    consumers: usize,
    wanted: Vec<ListenSpec>,
    /// The events that it has not settled, by id.
    expected: HashMap<Name, Expected>,
}

#[derive(Debug)]
struct Expected {
    number: u64,
    path: String,
    /// How often it was delivered.
    deliveries: u32,
    /// How many deliveries are not settled.
    held: u32,
}

impl Group {
    fn wants(&self, event: &EventMessage) -> bool {
        self.wanted.iter().any(|spec| spec.wants(&event.api, &event.event))
    }
}

impl InFlight {
    pub(super) fn begin(self: &Arc<Self>, work: Work, what: String) -> Ticket {
        let mut state = self.lock();
        state.begun += 1;
        let number = state.begun;
        state.work.insert(number, (work, what));
        Ticket { in_flight: Arc::clone(self), number }
    }

    /// Expects events at every listener that wants them. Called before they are sent, because they may
    /// be handled before sending returns.
    pub(super) fn expect(&self, events: &[EventMessage]) {
        let mut state = self.lock();
        let State { begun, groups, .. } = &mut *state;
        for event in events {
            for group in groups.values_mut().filter(|group| group.wants(event)) {
                *begun += 1;
                let number = *begun;
                group.expected.entry(Name::clone(&event.id)).or_insert_with(|| Expected {
                    number,
                    path: path(event),
                    deliveries: 0,
                    held: 0,
                });
            }
        }
    }

    /// Expects events at one group, to which dead letters are about to be requeued.
    pub(super) fn expect_again(&self, group: &str, events: &[EventMessage]) {
        let mut state = self.lock();
        let State { begun, groups, .. } = &mut *state;
        let Some(group) = groups.get_mut(group) else { return };
        for event in events.iter().filter(|event| group.wants(event)).collect::<Vec<_>>() {
            *begun += 1;
            group.expected.entry(Name::clone(&event.id)).or_insert_with(|| Expected {
                number: *begun,
                path: path(event),
                deliveries: 0,
                held: 0,
            });
        }
    }

    /// Stops expecting events that were not confirmed, unless a listener has received them. One that
    /// arrives later is counted from then on.
    pub(super) fn unexpect(&self, events: &[EventMessage]) {
        let mut state = self.lock();
        for group in state.groups.values_mut() {
            for event in events {
                if group.expected.get(&event.id).is_some_and(|expected| expected.deliveries == 0) {
                    group.expected.remove(&event.id);
                }
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) fn joined(&self, spec: &ListenSpec) {
        let mut state = self.lock();
        let group = state.groups.entry(spec.group.name()).or_default();
        group.consumers += 1;
        // A restarted listener wants the same events.
        if group.wanted.iter().all(|known| known.events != spec.events) {
            group.wanted.push(spec.clone());
        }
    }

    pub(super) fn left(&self, spec: &ListenSpec) {
        let mut state = self.lock();
        if let Some(group) = state.groups.get_mut(&spec.group.name()) {
            group.consumers -= 1;
            if group.consumers == 0 {
                // Events that it held are redelivered to the next consumer.
                group.expected.values_mut().for_each(|expected| expected.held = 0);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(super) fn delivered(&self, group: &Name, event: &EventMessage) {
        let mut state = self.lock();
        state.begun += 1;
        let number = state.begun;
        let Some(group) = state.groups.get_mut(group) else { return };
        let expected = group.expected.entry(Name::clone(&event.id)).or_insert_with(|| Expected {
            number,
            path: path(event),
            deliveries: 0,
            held: 0,
        });
        expected.deliveries += 1;
        expected.held += 1;
    }

    /// Called when a delivery has been settled, for good or to be redelivered.
    pub(super) fn settled(&self, group: &Name, id: &Name, for_good: bool) {
        let mut state = self.lock();
        if let Some(group) = state.groups.get_mut(group)
            && let Some(expected) = group.expected.get_mut(id)
        {
            expected.held = expected.held.saturating_sub(1);
            if for_good && expected.held == 0 {
                group.expected.remove(id);
            }
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Returns the number of pieces of work begun so far.
    pub(super) fn begun(&self) -> u64 {
        self.lock().begun
    }

    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.work.is_empty()
            && state.groups.values().all(|group| group.consumers == 0 || group.expected.is_empty())
    }

    /// Waits until a piece of work ends.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// Describes what is in flight for people, with a line for each kind.
    pub(super) fn describe(&self) -> String {
        let state = self.lock();
        let mut text = String::new();
        for (work, what) in [
            (Work::Call, "calls that wait for their results"),
            (Work::Procedure, "procedures that run"),
            (Work::Fire, "events that are being sent"),
        ] {
            let named = state.work.values().filter(|(kind, _)| *kind == work);
            list(&mut text, what, named.map(|(_, name)| name.clone()));
        }
        for (name, group) in state.groups.iter().filter(|(_, group)| group.consumers > 0) {
            let mut expected: Vec<_> = group.expected.iter().collect();
            expected.sort_unstable_by_key(|(_, expected)| expected.number);
            let named = expected.into_iter().map(|(id, expected)| {
                let Expected { path, deliveries, held, .. } = expected;
                let state = match (deliveries, held) {
                    (0, _) => "not delivered yet".to_owned(),
                    (count, 0) => format!("delivered {count} times, to be redelivered"),
                    (count, _) => format!("delivered {count} times, not acknowledged"),
                };
                format!("{path} {id} ({state})")
            });
            list(&mut text, &format!("events for the listener {name}"), named);
        }
        text
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path(event: &EventMessage) -> String {
    format!("{}.{}", event.api, event.event)
}

fn list(text: &mut String, what: &str, mut names: impl Iterator<Item = String>) {
    let named: Vec<_> = names.by_ref().take(NAMED).collect();
    if named.is_empty() {
        return;
    }
    let more = names.count();
    let _ = write!(text, "\n  {what}: {}", named.join(", "));
    if more > 0 {
        let _ = write!(text, ", and {more} more");
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.in_flight.lock().work.remove(&self.number);
        self.in_flight.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lightbus_core::{
        Arguments, FlowControl,
        transport::{EventSelector, GroupSpec, Start},
    };

    fn spec() -> ListenSpec {
        ListenSpec {
            group: GroupSpec::new("mail", "watch"),
            process: "one".into(),
            events: vec![EventSelector::one("auth", "seen")],
            start: Start::New,
            flow: FlowControl::new(1, 1),
        }
    }

    fn event(id: &str) -> EventMessage {
        EventMessage::new(id, "auth", "seen", 1, Arguments::new())
    }

    #[test]
    fn work_ends_with_its_ticket() {
        let in_flight = Arc::new(InFlight::default());
        let call = in_flight.begin(Work::Call, "auth.slow".to_owned());
        assert!(!in_flight.is_idle());
        assert!(in_flight.describe().contains("wait for their results: auth.slow"));
        drop(call);
        assert!(in_flight.is_idle());
    }

    #[test]
    fn an_event_is_in_flight_until_every_group_has_settled_it() {
        let in_flight = InFlight::default();
        in_flight.expect(&[event("0")]);
        assert!(in_flight.is_idle(), "there is no listener");
        let (spec, group) = (spec(), Name::from("mail-watch"));
        in_flight.joined(&spec);
        in_flight.expect(&[event("1")]);
        assert!(in_flight.describe().contains("auth.seen 1 (not delivered yet)"));
        in_flight.delivered(&group, &event("1"));
        assert!(in_flight.describe().contains("not acknowledged"));
        in_flight.settled(&group, &"1".into(), false);
        assert!(!in_flight.is_idle(), "it will be redelivered");
        in_flight.delivered(&group, &event("1"));
        in_flight.delivered(&group, &event("1"));
        in_flight.settled(&group, &"1".into(), true);
        assert!(!in_flight.is_idle(), "a second delivery is being handled");
        in_flight.settled(&group, &"1".into(), true);
        assert!(in_flight.is_idle());
    }

    #[test]
    fn a_listener_that_is_away_holds_nobody_up_until_it_is_back() {
        let in_flight = InFlight::default();
        let spec = spec();
        in_flight.joined(&spec);
        in_flight.left(&spec);
        in_flight.expect(&[event("1")]);
        assert!(in_flight.is_idle());
        in_flight.joined(&spec);
        assert!(!in_flight.is_idle());
    }

    #[test]
    fn what_was_not_confirmed_is_not_waited_for() {
        let in_flight = InFlight::default();
        in_flight.joined(&spec());
        in_flight.expect(&[event("1")]);
        in_flight.unexpect(&[event("1")]);
        assert!(in_flight.is_idle());
    }

    #[test]
    fn only_some_are_named() {
        let in_flight = Arc::new(InFlight::default());
        let _tickets: Vec<_> =
            (0..25).map(|n| in_flight.begin(Work::Fire, format!("auth.e{n}"))).collect();
        assert!(in_flight.describe().ends_with("auth.e9, and 15 more"), "{}", in_flight.describe());
    }
}
