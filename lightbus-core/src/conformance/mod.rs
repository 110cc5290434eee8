//! The suite that every transport passes (feature `conformance`).
//!
//! Each promise in the documentation of the [transport traits](crate::transport) names a case of this
//! suite. A transport's whole `tests/conformance.rs` is a [`Harness`] and one line:
//!
//! ```text
//! lightbus_core::conformance!(RedisHarness::new().await);
//! ```
//!
//! The macro makes one `#[test]` of each case, under the case's own name, and evaluates the expression
//! again for each. A case that is added here reaches every transport unasked. Cases may run at the same
//! time on one broker: each uses names that no other case has.
//!
//! What a transport cannot do is declared, never skipped in silence: an absent
//! [capability](crate::Capabilities) is tested to be absent, and an ability that the harness lacks
//! fails the case unless the harness says why it makes no sense there ([`Able::NotApplicable`]).
//!
//! Cases wait for conditions, never for a while, except where nothing is to happen.

mod dead_letters;
mod delivery;
mod event;
mod group;
mod kit;
mod outage;
mod result;
mod rpc;
mod schema;
mod transport;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::LocalBoxFuture;
use serde_json::Value;

use crate::{
    Capabilities, ConfigSection, Name, Result, ReturnPath, RpcMessage, TransportFactory,
    TransportKind,
    transport::{DeadLetters, EventTransport, ResultTransport, RpcTransport, SchemaTransport},
};

/// The cases, each to be run by itself: with a harness, panicking where a promise is broken.
pub mod cases {
    pub use super::{
        dead_letters::*, delivery::*, event::*, group::*, outage::*, result::*, rpc::*, schema::*,
        transport::*,
    };
}

/// The four transports of one process.
#[derive(Clone, Debug)]
pub struct Transports {
    /// Carries its calls.
    pub rpc: Arc<dyn RpcTransport>,
    /// Carries its results.
    pub result: Arc<dyn ResultTransport>,
    /// Carries its events.
    pub event: Arc<dyn EventTransport>,
    /// Carries its schemas.
    pub schema: Arc<dyn SchemaTransport>,
}

impl Transports {
    /// Makes all four, each with its options, as they stand in the configuration below the transport's
    /// name.
    ///
    /// # Panics
    ///
    /// If the factory refuses the options.
    #[must_use]
    pub fn new(factory: &dyn TransportFactory, options: impl Fn(TransportKind) -> Value) -> Self {
        let section = |kind| ConfigSection::new("test", options(kind));
        Self {
            rpc: factory.rpc(&section(TransportKind::Rpc)).expect("an RPC transport"),
            result: factory.result(&section(TransportKind::Result)).expect("a result transport"),
            event: factory.event(&section(TransportKind::Event)).expect("an event transport"),
            schema: factory.schema(&section(TransportKind::Schema)).expect("a schema transport"),
        }
    }

    /// The dead letters of its event transport.
    ///
    /// # Panics
    ///
    /// If it has none.
    #[must_use]
    pub fn dead_letters(&self) -> &dyn DeadLetters {
        self.event.dead_letters().expect("dead letters")
    }

    /// Opens all four.
    ///
    /// # Errors
    ///
    /// The first error.
    pub async fn open(&self) -> Result<()> {
        self.rpc.open().await?;
        self.result.open().await?;
        self.event.open().await?;
        self.schema.open().await
    }

    /// Closes all four.
    ///
    /// # Errors
    ///
    /// The last error; all are closed nevertheless.
    pub async fn close(&self) -> Result<()> {
        let rpc = self.rpc.close().await;
        let result = self.result.close().await;
        let event = self.event.close().await;
        self.schema.close().await.and(event).and(result).and(rpc)
    }
}

/// What a harness answers when a case asks for an ability.
#[derive(Debug)]
pub enum Able<T = ()> {
    /// Done; here it is.
    Yes(T),
    /// It makes no sense on this transport, for this reason. The case says so and passes.
    NotApplicable(&'static str),
    /// It has not been written. The case fails.
    NotWritten,
}

impl<T> Able<T> {
    /// What was asked for; `None`, with a printed line, where it makes no sense.
    ///
    /// # Panics
    ///
    /// If the harness has not written it.
    pub fn or_say(self, ability: &str) -> Option<T> {
        match self {
            Self::Yes(value) => Some(value),
            Self::NotApplicable(why) => {
                println!("not applicable: {ability}: {why}");
                None
            }
            Self::NotWritten => panic!(
                "the harness cannot do this: {ability}. Write it, or answer `NotApplicable` with the reason"
            ),
        }
    }
}

/// How the suite gets at a transport. One value serves one case.
#[async_trait]
pub trait Harness: Send + Sync {
    /// Why the cases cannot run here, such as a variable of the environment that is missing. They are
    /// then skipped with a printed line; where `CI` is `true` they fail.
    fn unavailable(&self) -> Option<String> {
        None
    }

    /// What the transports are expected to declare.
    fn capabilities(&self) -> Capabilities;

    /// The transports of one more process on the same bus, not opened yet.
    ///
    /// They share no connection and no task with those of earlier calls. A case may call this inside a
    /// tokio runtime of its own and end that runtime: so a process dies.
    async fn connect(&self) -> Transports;

    /// After how long an event that a dead process held is taken over, as [`connect`](Self::connect)
    /// configures it; zero if at once.
    ///
    /// Two seconds is right. Less than one makes cases fail on a busy machine, which renews too late
    /// what a slow process holds; five and more make them slow, as they wait for two and a half times as
    /// long, and a case must end within 120 s.
    fn taken_over_after(&self) -> Duration;

    /// How long to wait for what must happen, before the promise counts as broken: generous, because
    /// machines are slow.
    fn patience(&self) -> Duration {
        PATIENCE
    }

    /// The size of the largest argument to be tried. What the broker limits may be less than 1 MiB.
    fn largest(&self) -> usize {
        1 << 20
    }

    /// Whether several processes of a group can hold events of one key at the same time. Not where a
    /// partition, and so all of a key, belongs to one process: there what a process does not take is
    /// seen to wait at the broker instead, by the capability `lag`.
    fn shares_a_key(&self) -> bool {
        true
    }

    /// Transports that are configured with an address where no broker is, with `password` where the
    /// configuration takes one, and with a short connection timeout.
    async fn nowhere(&self, password: &str) -> Able<Transports> {
        let _ = password;
        Able::NotWritten
    }

    /// Puts something where a call of this API would be that cannot be read as one.
    async fn malformed_call(&self, api: &str) -> Able {
        let _ = api;
        Able::NotWritten
    }

    /// Puts this call where one of the API `as_of` would be.
    async fn misdirected_call(&self, as_of: &str, call: &RpcMessage) -> Able {
        let _ = (as_of, call);
        Able::NotWritten
    }

    /// Sends something to this return path that names this call and cannot be read as its result.
    async fn malformed_result(&self, to: &ReturnPath, call: &Name) -> Able {
        let _ = (to, call);
        Able::NotWritten
    }

    /// Puts something where this event would be that cannot be read as one.
    async fn malformed_event(&self, api: &str, event: &str) -> Able {
        let _ = (api, event);
        Able::NotWritten
    }

    /// Puts something where the schema of this API would be that is not JSON.
    async fn malformed_schema(&self, api: &str) -> Able {
        let _ = api;
        Able::NotWritten
    }

    /// A broker that only the caller uses, running, to be broken.
    async fn own_broker(&self) -> Able<Box<dyn Breakable>> {
        Able::NotWritten
    }
}

/// A broker that a case may break. Dropped, it ends.
#[async_trait]
pub trait Breakable: Send + Sync {
    /// The transports of one more process on this broker, not opened yet.
    async fn connect(&self) -> Transports;

    /// Ends all connections to the broker, which goes on serving.
    async fn break_connections(&self) -> Able;

    /// Ends the broker. No client can connect when this returns.
    async fn stop(&self);

    /// Starts the broker again, at the same address, with all that it had confirmed if the capability
    /// `durable` is declared. It serves when this returns.
    async fn start(&self);
}

/// A case, by name.
#[derive(Clone, Copy)]
pub struct Case {
    /// The name of the function in [`cases`].
    pub name: &'static str,
    /// Runs it, within a tokio runtime of several threads.
    pub run: for<'a> fn(&'a dyn Harness) -> LocalBoxFuture<'a, ()>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Makes a `#[test]` of each case of the suite, on the [`Harness`] that the expression gives. It is
/// evaluated again for each case, and may await.
#[macro_export]
macro_rules! conformance {
    (@tests $harness:expr; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::conformance::run(stringify!($case), async { $harness });
            }
        )*
    };
    (@table; $($case:ident)*) => {
        /// All cases of the suite.
        pub const CASES: &[Case] = &[
            $(Case { name: stringify!($case), run: |harness| Box::pin(cases::$case(harness)) }),*
        ];
    };
    (@cases $($then:tt)*) => {
        $crate::conformance! {
            @$($then)*;
            // events: what arrives
            events_arrive_in_order
            a_batch_keeps_its_order
            many_events_reach_many_listeners
            two_apis_do_not_mix
            an_unknown_event_is_harmless
            every_event_of_an_api
            several_events_in_one_listener
            unwanted_events_are_skipped
            bytes_of_every_kind_survive
            sending_nothing_is_fine
            the_broker_names_each_event
            history_is_newest_first
            history_keeps_its_bounds
            // events: who gets them
            every_listener_gets_every_event
            one_listener_name_shares_the_events
            two_services_do_not_share
            listen_then_send_misses_nothing
            a_new_listener_begins_with_what_comes
            a_listener_may_start_with_the_earliest
            processes_may_start_in_the_past_at_once
            a_listener_may_start_since
            a_known_group_goes_on_where_it_was
            a_crashed_listeners_events_are_taken_over
            a_process_gets_its_own_events_back_first
            a_slow_handler_keeps_its_event
            sent_events_survive_the_sender
            lag_counts
            a_forgotten_listener_begins_anew
            // events: how often
            a_dropped_delivery_comes_again
            a_done_delivery_never_comes_again
            a_rejected_delivery_never_comes_again
            a_malformed_event_is_set_aside
            no_more_in_flight_than_asked
            a_cancelled_next_loses_nothing
            close_gives_back_what_nobody_has_seen
            close_waits_for_what_is_held
            a_dropped_subscription_gives_back
            close_while_blocked_returns
            // events: what could not be handled
            dead_letters_are_read_page_by_page
            dead_letters_are_removed_one_by_one
            a_retried_dead_letter_comes_again_to_its_group_alone
            // calls
            each_call_runs_once
            two_workers_share_the_calls
            a_call_waits_for_its_worker
            waiting_calls_are_counted
            an_expired_call_is_not_run
            a_call_past_its_deadline_is_refused
            the_deadline_reaches_the_worker
            one_worker_may_serve_several_apis
            calls_go_to_the_workers_of_their_api
            arguments_of_every_kind_survive
            a_stopped_worker_gives_back_unseen_calls
            a_call_that_was_handed_out_never_comes_again
            a_worker_takes_no_more_than_asked
            a_malformed_call_is_set_aside
            a_call_in_the_queue_of_another_api_is_refused
            // results
            a_call_gets_its_result
            a_thousand_calls_get_their_own_results
            a_late_result_is_dropped
            a_result_for_nobody_is_fine
            a_foreign_return_path_is_malformed
            a_malformed_result_fails_its_call
            a_remote_error_arrives_whole
            a_result_may_be_any_json
            // schemas
            a_stored_schema_is_loaded
            a_schema_outlives_its_writer
            a_schema_expires
            a_ping_keeps_a_schema_alive
            an_unknown_schema_cannot_be_pinged
            the_last_schema_wins
            a_malformed_schema_is_left_out
            // all
            capabilities_are_as_declared
            what_is_absent_is_unsupported
            empty_lists_are_refused
            opening_twice_is_fine
            closing_twice_is_fine
            a_closed_transport_says_so
            closing_ends_what_waits
            errors_say_why
            secrets_stay_secret
            open_without_a_broker_is_unavailable
            // a broker that breaks
            a_listener_survives_a_broker_restart
            a_listener_survives_broken_connections
            a_worker_survives_a_broker_restart
            a_worker_survives_broken_connections
            a_caller_survives_a_broker_restart
            a_broker_that_is_away_is_unavailable
        }
    };
    ($harness:expr $(,)?) => {
        $crate::conformance! { @cases tests $harness }
    };
}

crate::conformance! { @cases table }

/// How long cases wait for what must happen, unless the harness says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a case may take altogether.
const CASE_LIMIT: Duration = Duration::from_secs(120);

/// Runs one case on a harness, in a runtime of its own.
///
/// # Panics
///
/// If the transport breaks the promise, or if there is no such case.
pub fn run<H: Harness>(name: &str, harness: impl Future<Output = H>) {
    let case = CASES.iter().find(|case| case.name == name).expect("the name of a case");
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    // Shown only for a case that fails. Another test of the process may have set it.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let harness = harness.await;
        if let Some(why) = harness.unavailable() {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "not run: {why}");
            println!("skipped: {why}");
            return;
        }
        let run = kit::PATIENCE.scope(harness.patience(), (case.run)(&harness));
        tokio::time::timeout(CASE_LIMIT, run)
            .await
            .unwrap_or_else(|_| panic!("{name} did not end within {CASE_LIMIT:?}"));
    });
    runtime.shutdown_timeout(Duration::from_secs(2));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each promise names the case that proves it, so each name must be a case.
    #[test]
    fn each_case_that_the_contract_names_is_there() {
        let contract = [
            include_str!("../transport/mod.rs"),
            include_str!("../transport/rpc.rs"),
            include_str!("../transport/result.rs"),
            include_str!("../transport/event.rs"),
            include_str!("../transport/schema.rs"),
            include_str!("../subscription/mod.rs"),
        ];
        let text = contract.concat().replace("///", " ");
        let words: Vec<_> = text.split_whitespace().collect();
        let text = words.join(" ");
        let mut named = 0;
        for place in text.split("(case").skip(1) {
            let list = place.split(')').next().unwrap_or_default();
            for name in list.split('`').skip(1).step_by(2) {
                named += 1;
                assert!(CASES.iter().any(|case| case.name == name), "there is no case `{name}`");
            }
        }
        assert!(named >= 20, "only {named} names were found: is the text written another way?");
    }

    #[test]
    fn no_case_is_there_twice() {
        let mut names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CASES.len());
    }
}
