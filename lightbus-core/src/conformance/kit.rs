//! What the cases are written with.

use std::{
    collections::hash_map::RandomState,
    fmt::Debug,
    future::Future,
    hash::{BuildHasher, Hasher},
    ops::Deref,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{Harness, Transports};
use crate::{
    Arguments, Delivery, ErrorKind, EventMessage, FlowControl, Headers, Name, Outcome,
    PendingResult, Result, ResultMessage, ReturnPath, RpcMessage, Subscription,
    transport::{EventSelector, GroupSpec, ListenSpec, ServeSpec, Start},
};

tokio::task_local! {
    /// [`Harness::patience`] of the harness whose case runs.
    pub(super) static PATIENCE: Duration;
}

/// How long to wait for what must happen.
pub(super) fn limit() -> Duration {
    // Other tasks than the case's own wait as long as is usual.
    PATIENCE.try_get().unwrap_or(super::PATIENCE)
}

/// How long to watch that nothing happens.
pub(super) const QUIET: Duration = Duration::from_millis(300);

/// The bus of one case: a harness, and names that no other case has.
pub(super) struct Bus<'a> {
    pub(super) harness: &'a dyn Harness,
    prefix: String,
    processes: AtomicUsize,
}

impl<'a> Bus<'a> {
    pub(super) fn new(harness: &'a dyn Harness) -> Self {
        // Each hasher has random keys.
        let random = RandomState::new().build_hasher().finish();
        let prefix = format!("t{:010x}", random & 0xff_ffff_ffff);
        Self { harness, prefix, processes: AtomicUsize::new(0) }
    }

    /// One more process on the bus.
    pub(super) async fn process(&self) -> Process {
        Process::open(self.harness.connect().await).await
    }

    /// An API, a service, an id: a name of this case alone.
    pub(super) fn name(&self, name: &str) -> Name {
        format!("{}.{name}", self.prefix).into()
    }

    /// The `n`th event called `happened`.
    pub(super) fn event(&self, api: &Name, n: usize) -> EventMessage {
        self.event_called(api, "happened", n)
    }

    pub(super) fn event_called(&self, api: &Name, event: &str, n: usize) -> EventMessage {
        let id = format!("{}-{event}-{n}", &**api);
        let mut message = EventMessage::new(id, Name::clone(api), event, 1, numbered(n));
        // What a broker with partitions spreads them by.
        message.key = Some(n.to_string().into());
        message
    }

    pub(super) fn events(&self, api: &Name, numbers: std::ops::Range<usize>) -> Vec<EventMessage> {
        // Of one key, so that they stay in order.
        numbers.map(|n| same_key(self.event(api, n))).collect()
    }

    /// A listener to `happened` of the API, in a process of its own name.
    pub(super) fn listener(&self, api: &Name, listener: &str) -> ListenSpec {
        let process = self.processes.fetch_add(1, Ordering::Relaxed);
        ListenSpec {
            group: GroupSpec::new(format!("{}-service", self.prefix), listener),
            process: format!("process-{process}").into(),
            events: vec![EventSelector::one(Name::clone(api), "happened")],
            start: Start::New,
            flow: flow(10, 100),
        }
    }

    /// The `n`th call of the API.
    pub(super) fn call(&self, api: &Name, n: usize, return_path: &ReturnPath) -> RpcMessage {
        RpcMessage {
            id: call_id(api, n),
            api: Name::clone(api),
            procedure: "run".into(),
            fields: numbered(n),
            headers: Headers::new(),
            return_path: return_path.clone(),
            deadline: Instant::now() + 2 * limit(),
        }
    }
}

pub(super) fn call_id(api: &Name, n: usize) -> Name {
    format!("{}-call-{n}", &**api).into()
}

pub(super) fn flow(batch: usize, max_in_flight: usize) -> FlowControl {
    FlowControl::new(batch, max_in_flight).close_within(Duration::from_secs(5))
}

pub(super) fn serving(api: &Name) -> ServeSpec {
    ServeSpec { apis: vec![Name::clone(api)], flow: flow(10, 100) }
}

/// The event with the key of all whose order counts.
pub(super) fn same_key(event: EventMessage) -> EventMessage {
    EventMessage { key: Some("same".into()), ..event }
}

fn numbered(n: usize) -> Arguments {
    Arguments::from_iter([(Name::from("n"), Bytes::from(n.to_string()))])
}

/// A process on the bus: its transports, open.
pub(super) struct Process(Transports);

impl Deref for Process {
    type Target = Transports;

    fn deref(&self) -> &Transports {
        &self.0
    }
}

impl Process {
    pub(super) async fn open(transports: Transports) -> Self {
        ok("opening", transports.open()).await;
        Self(transports)
    }

    pub(super) async fn listen(&self, spec: ListenSpec) -> Subscription<EventMessage> {
        ok("listening", self.event.listen(spec)).await
    }

    pub(super) async fn send(&self, events: &[EventMessage]) -> Vec<Name> {
        let ids = ok("sending events", self.event.send(events)).await;
        assert_eq!(ids.len(), events.len(), "`send` names each event");
        ids
    }

    pub(super) async fn serve(&self, spec: ServeSpec) -> Subscription<RpcMessage> {
        ok("serving", self.rpc.serve(spec)).await
    }

    /// Sends the `n`th call of the API, and gives what is to become its result.
    pub(super) async fn call(&self, bus: &Bus<'_>, api: &Name, n: usize) -> PendingResult {
        let id = call_id(api, n);
        let pending = ok("expecting a result", self.result.expect(&id)).await;
        ok("calling", self.rpc.call(bus.call(api, n, pending.return_path()))).await;
        pending
    }

    /// Answers a call with its own number.
    pub(super) async fn answer(&self, call: &RpcMessage) {
        let value = call.fields.get("n").cloned().expect("the call's number");
        ok("replying", self.result.reply(&call.return_path, result_of(call, value))).await;
    }

    /// Answers calls with their own numbers until it is dropped.
    pub(super) fn answer_all(&self, mut calls: Subscription<RpcMessage>) -> Task {
        let process = Self(self.0.clone());
        Task(tokio::spawn(async move {
            while let Some(delivery) = calls.next().await {
                let delivery = delivery.expect("a call");
                process.answer(&delivery.message).await;
                delivery.ack.settle_later(Outcome::Done);
            }
        }))
    }

    pub(super) async fn close(&self) {
        ok("closing", self.0.close()).await;
    }
}

/// A task that ends when it is dropped.
pub(super) struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) fn result_of(call: &RpcMessage, value: impl Into<Bytes>) -> ResultMessage {
    ResultMessage {
        id: format!("{}-result", call.id).into(),
        rpc_id: Name::clone(&call.id),
        headers: Headers::new(),
        body: Ok(value.into()),
    }
}

/// The value of a result that is to come.
pub(super) async fn value(pending: PendingResult) -> Bytes {
    let result = ok("waiting for the result", pending).await;
    result.body.expect("a value, not an error")
}

/// The result of something that must succeed, and soon.
pub(super) async fn ok<T>(what: &str, future: impl Future<Output = Result<T>>) -> T {
    within(what, future).await.unwrap_or_else(|error| panic!("{what} failed: {error:?}"))
}

/// The output of something that must end soon.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limit = limit();
    timeout(limit, future).await.unwrap_or_else(|_| panic!("{what} did not end within {limit:?}"))
}

/// The error of something that must fail, and soon, in this way.
pub(super) async fn fails<T: Debug>(
    what: &str,
    kind: ErrorKind,
    future: impl Future<Output = Result<T>>,
) -> crate::Error {
    let error = match within(what, future).await {
        Err(error) => error,
        Ok(value) => panic!("{what} gave {value:?}, not an error of kind `{kind}`"),
    };
    assert_eq!(error.kind(), kind, "{what} failed in another way: {error:?}");
    error
}

/// Asks again and again until the answer is there.
pub(super) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let limit = limit();
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = within(what, look()).await {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The next delivery, which must come.
pub(super) async fn next<M: Debug + Send + Sync + 'static>(
    subscription: &mut Subscription<M>,
) -> Delivery<M> {
    match within("waiting for a delivery", subscription.next()).await {
        Some(delivery) => {
            delivery.unwrap_or_else(|error| panic!("an error instead of a delivery: {error:?}"))
        }
        None => panic!("the subscription ended instead of giving a delivery"),
    }
}

pub(super) async fn done<M: Debug>(delivery: Delivery<M>) {
    ok("settling", delivery.ack.settle(Outcome::Done)).await;
}

/// Takes and settles this many, and gives their numbers.
pub(super) async fn take<M: Numbered>(
    subscription: &mut Subscription<M>,
    count: usize,
) -> Vec<usize> {
    let mut numbers = Vec::with_capacity(count);
    while numbers.len() < count {
        let delivery = next(subscription).await;
        numbers.push(delivery.message.number());
        if numbers.len() == count {
            // In the order of their making: with this one all are settled.
            done(delivery).await;
        } else {
            delivery.ack.settle_later(Outcome::Done);
        }
    }
    numbers
}

/// Fails if anything comes within this time.
pub(super) async fn nothing_within<M: Debug + Send + Sync + 'static>(
    why: &str,
    subscription: &mut Subscription<M>,
    time: Duration,
) {
    if let Ok(delivery) = timeout(time, subscription.next()).await {
        panic!("{why}, but this came: {delivery:?}");
    }
}

pub(super) async fn nothing<M: Debug + Send + Sync + 'static>(
    why: &str,
    subscription: &mut Subscription<M>,
) {
    nothing_within(why, subscription, QUIET).await;
}

/// A message that carries the number by which a case knows it.
pub(super) trait Numbered: Debug + Send + Sync + 'static {
    fn number(&self) -> usize;
}

impl Numbered for EventMessage {
    fn number(&self) -> usize {
        number_in(&self.fields)
    }
}

impl Numbered for RpcMessage {
    fn number(&self) -> usize {
        number_in(&self.fields)
    }
}

fn number_in(fields: &Arguments) -> usize {
    let bytes = fields.get("n").unwrap_or_else(|| panic!("no argument `n`: {fields:?}"));
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).expect("a number")
}

/// Numbers of events with one key that are to be these: in this order, if the transport keeps order.
pub(super) fn assert_numbers(
    harness: &dyn Harness,
    mut numbers: Vec<usize>,
    expected: impl IntoIterator<Item = usize>,
) {
    let has = harness.capabilities();
    if !has.ordered && !has.ordered_by_key {
        numbers.sort_unstable();
    }
    assert_eq!(numbers, expected.into_iter().collect::<Vec<_>>());
}

/// Runs something in a process that dies of it: a runtime of its own, ended without a word. Gives what
/// it made, whose tasks are dead.
pub(super) fn in_a_process_that_dies<T: Send>(work: impl Future<Output = T> + Send) -> T {
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let process = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let made = runtime.block_on(work);
                runtime.shutdown_timeout(Duration::from_secs(5));
                made
            });
            process.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// JSON of every kind, by name.
pub(super) fn json_of_every_kind(largest: usize) -> Vec<(&'static str, String)> {
    // What the text of the value takes beside the letters.
    let long = format!("\"{}\"", "x".repeat(largest.saturating_sub(2)));
    let mut nested = "[".repeat(60);
    nested.push_str(&"]".repeat(60));
    vec![
        ("null", "null".into()),
        ("yes", "true".into()),
        ("no", "false".into()),
        ("zero", "0".into()),
        ("largest_u64", "18446744073709551615".into()),
        ("smallest_i64", "-9223372036854775808".into()),
        ("more_than_64_bits", "123456789012345678901234567890".into()),
        ("fraction", "0.1".into()),
        ("tiny", "5e-324".into()),
        ("huge", "1.7976931348623157e308".into()),
        ("empty_text", "\"\"".into()),
        ("unicode", "\"Grüße, 世界 \u{1f68c} \u{200f}\u{301}\"".into()),
        ("escaped", r#""\u0000\n\t\"\\\u2028 \u00e9""#.into()),
        ("looks_like_a_number", "\"12\"".into()),
        ("looks_like_null", "\"null\"".into()),
        ("newlines", "\"one\\r\\ntwo\\r\\n\\r\\n\"".into()),
        ("empty_list", "[]".into()),
        ("empty_object", "{}".into()),
        ("object", r#"{"b":1,"a":{"":[null,{"x":[]}]},"ü":"ü"}"#.into()),
        ("nested", nested),
        ("größe", "1".into()),
        ("with space", "2".into()),
        ("a:b*c.d", "3".into()),
        ("__proto__", "4".into()),
        ("long", long),
    ]
}

pub(super) fn fields_of_every_kind(largest: usize) -> Arguments {
    let kinds = json_of_every_kind(largest).into_iter();
    kinds.map(|(name, json)| (Name::from(name), Bytes::from(json))).collect()
}

/// Compares piece by piece, so that a difference can be read.
pub(super) fn assert_same_fields(found: &Arguments, sent: &Arguments) {
    for (name, value) in sent.iter() {
        let Some(found) = found.get(name) else { panic!("the argument `{name}` is missing") };
        let text =
            |bytes: &Bytes| String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
        assert!(found == value, "`{name}` was {}, and came as {}", text(value), text(found));
    }
    let names =
        |fields: &Arguments| fields.iter().map(|(name, _)| Name::clone(name)).collect::<Vec<_>>();
    assert_eq!(names(found), names(sent), "the arguments and their order");
}
