//! Assertions on what was fired and called.

use lightbus_core::EventMessage;

use super::{
    TestBus,
    called::{Called, same, shown},
};
use crate::{
    Call,
    bus::Client,
    contract::{Event, EventFields},
};

/// How many of the recorded messages a failed assertion shows.
const SHOWN: usize = 20;

/// Inspecting what the processes of a test have sent. Events are recorded once the broker has confirmed
/// them, calls once they are allowed.
///
/// Events from [`fire_from_outside`](TestBus::fire_from_outside) are not recorded. All of these methods
/// panic if more was sent than is [kept](super::TestBusBuilder::keep).
impl TestBus {
    /// Asserts that an event, such as `auth.user_registered`, was fired at least once.
    #[track_caller]
    pub fn assert_event_fired(&self, event: &str) {
        let seen = self.events_of(event).len();
        assert!(seen > 0, "{event} was not fired.{}", self.fired_instead());
    }

    /// Asserts that an event was fired exactly `times` times.
    #[track_caller]
    pub fn assert_events_fired(&self, event: &str, times: usize) {
        let seen = self.events_of(event).len();
        assert!(
            seen == times,
            "{event} was fired {}, not {}.{}",
            count(seen),
            count(times),
            self.fired_instead()
        );
    }

    /// Asserts that an event was not fired.
    #[track_caller]
    pub fn assert_event_not_fired(&self, event: &str) {
        self.assert_events_fired(event, 0);
    }

    /// Asserts that an event was fired exactly `times` times, by its type.
    #[track_caller]
    pub fn assert_fired<E: Event>(&self, times: usize) {
        self.assert_events_fired(&path_of::<E>(), times);
    }

    /// Asserts that an event with exactly these values was fired at least once.
    #[track_caller]
    pub fn assert_fired_event<E: Event>(&self, event: E) {
        let path = path_of::<E>();
        let wanted = event.encode().unwrap_or_else(|error| panic!("{path}: {error}"));
        let found = self.events_of(&path).iter().any(|seen| same(&seen.fields, &wanted));
        assert!(found, "{path}({}) was not fired.{}", shown(&wanted), self.fired_instead());
    }

    /// Returns the events of a type that were fired, in order.
    ///
    /// # Panics
    ///
    /// If one cannot be decoded as this type.
    #[track_caller]
    #[must_use]
    pub fn fired<E: Event>(&self) -> Vec<E> {
        let path = path_of::<E>();
        let read = |event: &EventMessage| {
            <E as EventFields>::decode(&event.fields)
                .unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        self.events_of(&path).iter().map(read).collect()
    }

    /// Returns the messages of all events that were fired, or of those of one name, in order. Python's
    /// `get_event_messages`.
    #[track_caller]
    #[must_use]
    pub fn event_messages(&self, event: Option<&str>) -> Vec<EventMessage> {
        match event {
            Some(event) => self.events_of(event),
            None => self.kept(|kept| kept.events.clone()),
        }
    }

    /// Returns the names of the events that were fired, without duplicates, sorted.
    #[track_caller]
    #[must_use]
    pub fn event_names_fired(&self) -> Vec<String> {
        self.kept(|kept| sorted(kept.events.iter().map(event_path)))
    }

    /// Asserts that a procedure, such as `auth.check_password`, was called at least once.
    #[track_caller]
    pub fn assert_rpc_called(&self, procedure: &str) {
        let seen = self.calls_of(procedure).len();
        assert!(seen > 0, "{procedure} was not called.{}", self.called_instead());
    }

    /// Asserts that a procedure was called exactly `times` times.
    #[track_caller]
    pub fn assert_rpc_called_times(&self, procedure: &str, times: usize) {
        let seen = self.calls_of(procedure).len();
        assert!(
            seen == times,
            "{procedure} was called {}, not {}.{}",
            count(seen),
            count(times),
            self.called_instead()
        );
    }

    /// Asserts that a procedure was not called.
    #[track_caller]
    pub fn assert_rpc_not_called(&self, procedure: &str) {
        self.assert_rpc_called_times(procedure, 0);
    }

    /// Asserts that a call with exactly these arguments was made at least once:
    /// `test.assert_called(|auth: &AuthClient| auth.check_password("admin", "secret"))`.
    #[track_caller]
    pub fn assert_called<C: Client, T, E>(&self, call: impl FnOnce(&C) -> Call<T, E>) {
        let (api, procedure, fields) = call(&C::new(self.bus())).into_parts();
        let path = format!("{api}.{procedure}");
        let wanted = fields.unwrap_or_else(|error| panic!("{path}: {error}"));
        let found = self.calls_of(&path).iter().any(|seen| same(&seen.fields, &wanted));
        assert!(found, "{path}({}) was not called.{}", shown(&wanted), self.called_instead());
    }

    /// Returns all calls that were made, or those of one procedure, in order. Python's
    /// `get_rpc_messages`.
    #[track_caller]
    #[must_use]
    pub fn rpc_messages(&self, procedure: Option<&str>) -> Vec<Called> {
        match procedure {
            Some(procedure) => self.calls_of(procedure),
            None => self.kept(|kept| kept.calls.clone()),
        }
    }

    /// Returns the names of the procedures that were called, without duplicates, sorted.
    #[track_caller]
    #[must_use]
    pub fn rpc_names_called(&self) -> Vec<String> {
        self.kept(|kept| sorted(kept.calls.iter().map(Called::path)))
    }

    /// Asserts that no call or event was refused for lack of a mock. For code that swallows errors.
    #[track_caller]
    pub fn assert_nothing_refused(&self) {
        let refused = self.kept(|kept| kept.refused.clone());
        assert!(refused.is_empty(), "was refused:{}", lines(refused.into_iter()));
    }

    /// Clears the record of what was fired, called and refused. Mocks stay.
    pub fn clear(&self) {
        self.state.record.clear();
    }

    fn events_of(&self, path: &str) -> Vec<EventMessage> {
        self.kept(|kept| {
            kept.events.iter().filter(|event| event_path(event) == path).cloned().collect()
        })
    }

    fn calls_of(&self, path: &str) -> Vec<Called> {
        self.kept(|kept| kept.calls.iter().filter(|call| call.path() == path).cloned().collect())
    }

    fn kept<T>(&self, look: impl FnOnce(&super::record::Kept) -> T) -> T {
        self.state.record.read(look).unwrap_or_else(|too_many| panic!("{too_many}"))
    }

    fn fired_instead(&self) -> String {
        self.kept(|kept| {
            let fired = kept.events.iter();
            let fired =
                fired.map(|event| format!("{}({})", event_path(event), shown(&event.fields)));
            format!(" Fired:{}{}", lines(fired), self.seed())
        })
    }

    fn called_instead(&self) -> String {
        self.kept(|kept| {
            let called = kept.calls.iter();
            let called = called.map(|call| format!("{}({})", call.path(), shown(&call.fields)));
            format!(" Called:{}{}", lines(called), self.seed())
        })
    }
}

fn path_of<E: Event>() -> String {
    format!("{}.{}", E::api().name, E::CONTRACT.name)
}

fn event_path(event: &EventMessage) -> String {
    format!("{}.{}", event.api, event.event)
}

fn count(times: usize) -> String {
    match times {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        times => format!("{times} times"),
    }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Formats one line for each item, up to a limit.
fn lines(mut all: impl Iterator<Item = String>) -> String {
    let mut text: String = all.by_ref().take(SHOWN).map(|line| format!("\n  {line}")).collect();
    if text.is_empty() {
        return " nothing".to_owned();
    }
    match all.count() {
        0 => {}
        more => text.push_str(&format!("\n  and {more} more")),
    }
    text
}
