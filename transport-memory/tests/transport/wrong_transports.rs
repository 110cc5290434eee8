//! The suite finds broken transports: each of these breaks one promise, and a case says so by name.
//!
//! Each is the memory transport with one fault. Without the fault the same case passes, so that it is
//! the fault that is found.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures_core::stream::BoxStream;
use lightbus_core::{
    AckHandle, Arguments, Capabilities, ConfigSection, Delivery, EventMessage, FlowControl, Name,
    Outcome, PendingResult, Result, ResultMessage, ReturnPath, RpcMessage, Source, Subscription,
    Transport, TransportFactory,
    conformance::{Harness, Transports, run},
    transport::{
        DeadLetter, DeadLetters, EventSelector, EventTransport, GroupSpec, HistorySpec, Lag,
        ListenSpec, ResultTransport, RpcTransport, SchemaTransport, ServeSpec, Start,
    },
};
use lightbus_transport_memory::MemoryFactory;
use serde_json::value::RawValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Tells the broker "done" when it fetches.
    AcknowledgesTooEarly,
    /// Tells the broker nothing.
    NeverAcknowledges,
    /// What comes back on close is told as done.
    LosesOnClose,
    /// Fetches and hands out what there is, however little room there is.
    IgnoresCredit,
    /// All listeners are one group.
    MixesListenersUp,
    /// Each process is a group of its own.
    MakesAGroupPerProcess,
    /// Says that it listens before it does.
    ListensLater,
    /// Begins with the past, always.
    BeginsWithThePast,
    /// Sends the last event first.
    ReversesBatches,
    /// Sends only the first event of a batch, and says that it sent all.
    LosesTheRestOfABatch,
    /// Each event is stored twice.
    SendsTwice,
    /// Rejected events are told as done.
    ForgetsDeadLetters,
    /// Each page of dead letters is the first.
    ReadsTheSamePageAgain,
    /// Removes no dead letter, and says that it did.
    KeepsDeadLetters,
    /// Retries a dead letter by firing it again, for everybody.
    RetriesForAll,
    /// Removes what it is to retry.
    RetriesAndForgets,
    /// Says that it cannot do what it can.
    HidesHistory,
    /// Leaves arguments out whose value is null.
    DropsNulls,
    /// Gives history as it came.
    ReadsHistoryForwards,
    /// The lag is what somebody would like it to be.
    InventsLag,
    /// No call ever waits.
    InventsBacklog,
    /// What is forgotten is not.
    ForgetsNobody,
    /// Calls never expire.
    RunsExpiredCalls,
    /// Each call is queued twice.
    CallsTwice,
    /// What a worker had fetched ends with it.
    LosesCallsOnClose,
    /// A call that was dropped runs again.
    RunsCallsAgain,
    /// Results go to whichever call waits.
    MixesResultsUp,
    /// Of a failure only the message is told.
    ForgetsTheTrace,
    /// Any return path will do.
    AcceptsAnyReturnPath,
    /// A schema lives for ever.
    KeepsSchemas,
    /// A ping does nothing, and says that all is well.
    PingsNothing,
    /// Closing does nothing.
    NeverCloses,
    /// Closing twice is an error.
    ClosesOnce,
}

fn breaks(case: &str, fault: Fault) {
    let try_with = |fault| {
        let harness = Wrong { factory: MemoryFactory::default(), fault };
        catch_unwind(AssertUnwindSafe(|| run(case, async { harness })))
    };
    assert!(try_with(Fault::None).is_ok(), "without a fault {case} passes");
    let panic = try_with(fault).expect_err("the case must find the fault");
    let text = panic.downcast_ref::<String>().map_or("", |text| text);
    println!("{fault:?} is found by {case}: {text}");
}

macro_rules! found {
    ($($name:ident: $fault:ident by $($case:ident)*;)*) => {
        $(
            #[test]
            fn $name() {
                $(breaks(stringify!($case), Fault::$fault);)*
            }
        )*
    };
}

found! {
    acknowledging_too_early: AcknowledgesTooEarly by
        a_crashed_listeners_events_are_taken_over close_gives_back_what_nobody_has_seen;
    never_acknowledging: NeverAcknowledges by a_done_delivery_never_comes_again;
    losing_on_close: LosesOnClose by
        close_gives_back_what_nobody_has_seen a_dropped_subscription_gives_back;
    ignoring_credit: IgnoresCredit by no_more_in_flight_than_asked;
    mixing_listeners_up: MixesListenersUp by every_listener_gets_every_event;
    a_group_per_process: MakesAGroupPerProcess by
        one_listener_name_shares_the_events a_known_group_goes_on_where_it_was;
    listening_later: ListensLater by listen_then_send_misses_nothing;
    beginning_with_the_past: BeginsWithThePast by a_new_listener_begins_with_what_comes;
    reversing_batches: ReversesBatches by a_batch_keeps_its_order events_arrive_in_order;
    losing_the_rest_of_a_batch: LosesTheRestOfABatch by a_batch_keeps_its_order;
    sending_twice: SendsTwice by a_done_delivery_never_comes_again;
    forgetting_dead_letters: ForgetsDeadLetters by a_rejected_delivery_never_comes_again;
    reading_the_same_page_again: ReadsTheSamePageAgain by dead_letters_are_read_page_by_page;
    keeping_dead_letters: KeepsDeadLetters by dead_letters_are_removed_one_by_one;
    retrying_for_all: RetriesForAll by a_retried_dead_letter_comes_again_to_its_group_alone;
    retrying_and_forgetting: RetriesAndForgets by
        a_retried_dead_letter_comes_again_to_its_group_alone;
    hiding_history: HidesHistory by what_is_absent_is_unsupported capabilities_are_as_declared;
    dropping_nulls: DropsNulls by bytes_of_every_kind_survive arguments_of_every_kind_survive;
    reading_history_forwards: ReadsHistoryForwards by history_is_newest_first;
    inventing_lag: InventsLag by lag_counts;
    inventing_backlog: InventsBacklog by waiting_calls_are_counted;
    forgetting_nobody: ForgetsNobody by a_forgotten_listener_begins_anew;
    running_expired_calls: RunsExpiredCalls by
        an_expired_call_is_not_run a_call_past_its_deadline_is_refused
        the_deadline_reaches_the_worker;
    calling_twice: CallsTwice by each_call_runs_once;
    losing_calls_on_close: LosesCallsOnClose by a_stopped_worker_gives_back_unseen_calls;
    running_calls_again: RunsCallsAgain by a_call_that_was_handed_out_never_comes_again;
    mixing_results_up: MixesResultsUp by
        a_call_gets_its_result a_thousand_calls_get_their_own_results;
    forgetting_the_trace: ForgetsTheTrace by a_remote_error_arrives_whole;
    accepting_any_return_path: AcceptsAnyReturnPath by a_foreign_return_path_is_malformed;
    keeping_schemas: KeepsSchemas by a_schema_expires;
    pinging_nothing: PingsNothing by
        a_ping_keeps_a_schema_alive an_unknown_schema_cannot_be_pinged;
    never_closing: NeverCloses by a_closed_transport_says_so closing_ends_what_waits;
    closing_once: ClosesOnce by closing_twice_is_fine;
}

struct Wrong {
    factory: MemoryFactory,
    fault: Fault,
}

#[async_trait]
impl Harness for Wrong {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::default();
        capabilities.ordered = true;
        capabilities.replay = true;
        capabilities.history = self.fault != Fault::HidesHistory;
        capabilities.lag = true;
        capabilities.backlog = true;
        capabilities.dead_letters = true;
        capabilities.resumes = true;
        capabilities
    }

    async fn connect(&self) -> Transports {
        let section = ConfigSection::empty("test");
        let fault = self.fault;
        Transports {
            rpc: Arc::new(Rpc { inner: self.factory.rpc(&section).expect("memory"), fault }),
            result: Arc::new(Results {
                inner: self.factory.result(&section).expect("memory"),
                fault,
                last: Mutex::new("nobody".into()),
            }),
            event: Arc::new(Events {
                inner: self.factory.event(&section).expect("memory"),
                fault,
                closed: Mutex::default(),
            }),
            schema: Arc::new(Schemas {
                inner: self.factory.schema(&section).expect("memory"),
                fault,
            }),
        }
    }

    fn taken_over_after(&self) -> Duration {
        Duration::ZERO
    }

    fn patience(&self) -> Duration {
        match self.fault {
            Fault::None => Duration::from_secs(20),
            // Longer than the schema is to live.
            Fault::KeepsSchemas => Duration::from_secs(5),
            // What is lost will not come, however long one waits.
            _ => Duration::from_secs(2),
        }
    }
}

macro_rules! transport {
    ($type:ident) => {
        #[async_trait]
        impl Transport for $type {
            fn name(&self) -> &'static str {
                self.inner.name()
            }

            fn broker(&self) -> String {
                self.inner.broker()
            }

            fn capabilities(&self) -> Capabilities {
                self.inner.capabilities()
            }

            async fn open(&self) -> Result<()> {
                self.inner.open().await
            }

            async fn close(&self) -> Result<()> {
                if self.fault == Fault::NeverCloses {
                    return Ok(());
                }
                self.before_close()?;
                self.inner.close().await
            }
        }
    };
}

#[derive(Debug)]
struct Events {
    inner: Arc<dyn EventTransport>,
    fault: Fault,
    closed: Mutex<bool>,
}

transport!(Events);

impl Events {
    fn before_close(&self) -> Result<()> {
        let again = std::mem::replace(&mut *self.closed.lock().expect("a lock"), true);
        if again && self.fault == Fault::ClosesOnce {
            return Err(lightbus_core::Error::closed("the event transport"));
        }
        Ok(())
    }
}

fn without_nulls(fields: &Arguments) -> Arguments {
    let kept = fields.iter().filter(|(_, value)| &value[..] != b"null");
    kept.map(|(name, value)| (Name::clone(name), value.clone())).collect()
}

#[async_trait]
impl EventTransport for Events {
    async fn send(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let mut events = events.to_vec();
        let count = events.len();
        match self.fault {
            Fault::ReversesBatches => events.reverse(),
            Fault::LosesTheRestOfABatch => events.truncate(1),
            Fault::SendsTwice => drop(self.inner.send(&events).await?),
            Fault::DropsNulls => {
                events.iter_mut().for_each(|event| event.fields = without_nulls(&event.fields));
            }
            _ => {}
        }
        let mut ids = self.inner.send(&events).await?;
        ids.resize(count, "lost".into());
        Ok(ids)
    }

    async fn listen(&self, mut spec: ListenSpec) -> Result<Subscription<EventMessage>> {
        let flow = spec.flow;
        match self.fault {
            Fault::MixesListenersUp => spec.group.listener = "all".into(),
            Fault::MakesAGroupPerProcess => spec.group.listener = Name::clone(&spec.process),
            Fault::BeginsWithThePast => spec.start = Start::Earliest,
            Fault::IgnoresCredit => spec.flow = FlowControl::new(1000, 1000),
            _ => {}
        }
        let inner = if self.fault == Fault::ListensLater && !spec.events.is_empty() {
            let (events, spec) = (Arc::clone(&self.inner), spec);
            Inner::Later(tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                events.listen(spec).await
            }))
        } else {
            Inner::Now(self.inner.listen(spec).await?)
        };
        let inner = tokio::sync::Mutex::new(inner);
        let relay = Relay::<_, true> { inner, fault: self.fault, put_back: None };
        Ok(Subscription::spawn(relay, flow))
    }

    async fn history(&self, spec: HistorySpec) -> Result<BoxStream<'static, Result<EventMessage>>> {
        let history = self.inner.history(spec).await?;
        if self.fault != Fault::ReadsHistoryForwards {
            return Ok(history);
        }
        let mut all: Vec<_> = futures_util::StreamExt::collect(history).await;
        all.reverse();
        Ok(Box::pin(futures_util::stream::iter(all)))
    }

    async fn lag(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<Lag> {
        let lag = self.inner.lag(group, events).await?;
        Ok(if self.fault == Fault::InventsLag { Lag::default() } else { lag })
    }

    async fn forget(&self, group: &GroupSpec, events: &[EventSelector]) -> Result<()> {
        match self.fault {
            Fault::ForgetsNobody => Ok(()),
            _ => self.inner.forget(group, events).await,
        }
    }

    fn dead_letters(&self) -> Option<&dyn DeadLetters> {
        self.inner.dead_letters().map(|_| self as &dyn DeadLetters)
    }
}

#[async_trait]
impl DeadLetters for Events {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let after = after.filter(|_| self.fault != Fault::ReadsTheSamePageAgain);
        self.inner.require_dead_letters()?.list(group, after, limit).await
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        match self.fault {
            Fault::KeepsDeadLetters => Ok(ids.len()),
            _ => self.inner.require_dead_letters()?.remove(group, ids).await,
        }
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        let inner = self.inner.require_dead_letters()?;
        match self.fault {
            Fault::RetriesForAll => {
                let letters = inner.list(group, None, usize::MAX).await?;
                let wanted = letters.into_iter().filter(|letter| ids.contains(&letter.id));
                let events: Vec<_> = wanted.map(|letter| letter.event).collect();
                self.inner.send(&events).await?;
                inner.remove(group, ids).await
            }
            Fault::RetriesAndForgets => inner.remove(group, ids).await,
            _ => inner.requeue(group, ids).await,
        }
    }
}

/// Messages of an inner subscription, handed on.
struct Relay<M, const REDELIVERS: bool> {
    inner: tokio::sync::Mutex<Inner<M>>,
    fault: Fault,
    /// How a message that nobody has seen is put back, where the inner acknowledgement cannot say so.
    put_back: Option<Arc<dyn RpcTransport>>,
}

enum Inner<M> {
    Later(tokio::task::JoinHandle<Result<Subscription<M>>>),
    Now(Subscription<M>),
    Closed,
}

struct Held<M> {
    message: Arc<M>,
    ack: Mutex<Option<AckHandle>>,
}

impl<M> Held<M> {
    fn ack(&self) -> Option<AckHandle> {
        self.ack.lock().expect("a lock").take()
    }
}

trait Message: Clone + Send + Sync + 'static {
    fn call(&self) -> Option<RpcMessage>;
}

impl Message for EventMessage {
    fn call(&self) -> Option<RpcMessage> {
        None
    }
}

impl Message for RpcMessage {
    fn call(&self) -> Option<RpcMessage> {
        Some(self.clone())
    }
}

#[async_trait]
impl<M: Message, const REDELIVERS: bool> Source for Relay<M, REDELIVERS> {
    type Message = M;
    type Token = Held<M>;

    const REDELIVERS: bool = REDELIVERS;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<M>, Held<M>)>> {
        let mut inner = self.inner.lock().await;
        if let Inner::Later(task) = &mut *inner {
            *inner = Inner::Now(task.await.expect("the task")?);
        }
        let Inner::Now(subscription) = &mut *inner else {
            return Err(lightbus_core::Error::closed("the relay"));
        };
        let max = if self.fault == Fault::IgnoresCredit { 1000 } else { max };
        let mut buffer = Vec::new();
        if subscription.next_batch(&mut buffer, max).await == 0 {
            return Err(lightbus_core::Error::closed("the inner subscription"));
        }
        let mut messages = Vec::new();
        for delivery in buffer {
            let Delivery { message, ack, .. } = delivery?;
            let ack = if self.fault == Fault::AcknowledgesTooEarly {
                ack.settle_later(Outcome::Done);
                None
            } else {
                Some(ack)
            };
            messages.push((Arc::clone(&message), Held { message, ack: Mutex::new(ack) }));
        }
        Ok(messages)
    }

    async fn settle(&self, settled: &[(Held<M>, Outcome)]) -> Result<()> {
        for (held, outcome) in settled {
            if self.fault == Fault::NeverAcknowledges {
                continue;
            }
            let Some(ack) = held.ack() else { continue };
            let outcome = match (self.fault, outcome) {
                (Fault::LosesOnClose | Fault::LosesCallsOnClose, Outcome::Retry)
                | (Fault::ForgetsDeadLetters, Outcome::Reject(_)) => Outcome::Done,
                (_, Outcome::Retry) => {
                    if let (Some(rpc), Some(call)) = (&self.put_back, held.message.call()) {
                        rpc.call(call).await?;
                    }
                    Outcome::Retry
                }
                (_, outcome) => outcome.clone(),
            };
            let _ = ack.settle(outcome).await;
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        let mut inner = self.inner.lock().await;
        let Inner::Now(mut subscription) = std::mem::replace(&mut *inner, Inner::Closed) else {
            return Ok(());
        };
        if matches!(self.fault, Fault::LosesOnClose | Fault::LosesCallsOnClose) {
            while let Some(Some(Ok(delivery))) =
                futures_util::FutureExt::now_or_never(subscription.next())
            {
                let _ = delivery.ack.settle(Outcome::Done).await;
            }
        }
        let _ = subscription.close().await;
        Ok(())
    }
}

#[derive(Debug)]
struct Rpc {
    inner: Arc<dyn RpcTransport>,
    fault: Fault,
}

transport!(Rpc);

impl Rpc {
    fn before_close(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl RpcTransport for Rpc {
    async fn call(&self, mut call: RpcMessage) -> Result<()> {
        match self.fault {
            Fault::RunsExpiredCalls => call.deadline += Duration::from_secs(3600),
            Fault::CallsTwice => self.inner.call(call.clone()).await?,
            Fault::DropsNulls => call.fields = without_nulls(&call.fields),
            _ => {}
        }
        self.inner.call(call).await
    }

    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>> {
        let flow = spec.flow;
        let inner = tokio::sync::Mutex::new(Inner::Now(self.inner.serve(spec).await?));
        let (fault, put_back) = (self.fault, Some(Arc::clone(&self.inner)));
        Ok(if fault == Fault::RunsCallsAgain {
            Subscription::spawn(Relay::<_, true> { inner, fault, put_back }, flow)
        } else {
            Subscription::spawn(Relay::<_, false> { inner, fault, put_back }, flow)
        })
    }

    async fn backlog(&self, api: &str) -> Result<u64> {
        let waiting = self.inner.backlog(api).await?;
        Ok(if self.fault == Fault::InventsBacklog { 0 } else { waiting })
    }
}

#[derive(Debug)]
struct Results {
    inner: Arc<dyn ResultTransport>,
    fault: Fault,
    last: Mutex<Name>,
}

transport!(Results);

impl Results {
    fn before_close(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl ResultTransport for Results {
    async fn expect(&self, id: &Name) -> Result<PendingResult> {
        self.inner.expect(id).await
    }

    async fn reply(&self, to: &ReturnPath, mut result: ResultMessage) -> Result<()> {
        match (self.fault, &mut result.body) {
            (Fault::MixesResultsUp, _) => {
                std::mem::swap(&mut result.rpc_id, &mut *self.last.lock().expect("a lock"));
            }
            (Fault::ForgetsTheTrace, Err(error)) => error.trace = None,
            _ => {}
        }
        match self.inner.reply(to, result).await {
            Err(_) if self.fault == Fault::AcceptsAnyReturnPath => Ok(()),
            result => result,
        }
    }
}

#[derive(Debug)]
struct Schemas {
    inner: Arc<dyn SchemaTransport>,
    fault: Fault,
}

transport!(Schemas);

impl Schemas {
    fn before_close(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl SchemaTransport for Schemas {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        let hour = Duration::from_secs(3600);
        let ttl = if self.fault == Fault::KeepsSchemas { hour } else { ttl };
        self.inner.store(api, schema, ttl).await
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        if self.fault == Fault::PingsNothing {
            return Ok(true);
        }
        self.inner.ping(api, ttl).await
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        self.inner.load().await
    }
}
