//! Mocking procedures.

use std::{
    collections::VecDeque,
    fmt,
    marker::PhantomData,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{Args, Arguments, Error, Name, RemoteError, Result, codec, name};
use serde::Serialize;
use serde_json::Value;

use super::{
    TestBus,
    called::Called,
    mocks::{self, Answer, Script},
    test_state::TestState,
};
use crate::{
    Call,
    bus::Client,
    contract::{ApiError, CallError, Contract, Event},
};

/// Maps the error type of a call to the errors that the API declares.
pub trait Declared {
    /// The error type of the procedure.
    type Error: ApiError;
}

impl Declared for Error {
    type Error = Error;
}

impl<E: ApiError> Declared for CallError<E> {
    type Error = E;
}

/// The procedures of an API that can be mocked. See [`TestBus::mock`].
#[must_use = "nothing is mocked until an answer is set"]
pub struct MockApi<'t, C> {
    test: &'t TestBus,
    client: PhantomData<fn() -> C>,
}

/// A procedure to be mocked, with typed answers.
#[must_use = "nothing is mocked until an answer is set"]
pub struct Mock<T, E> {
    slot: Slot,
    types: PhantomData<fn() -> (T, E)>,
}

/// A procedure to be mocked, by name.
#[must_use = "nothing is mocked until an answer is set"]
pub struct MockByName {
    slot: Slot,
}

/// One answer of a sequence. See [`Mock::in_turn`].
pub struct Reply<T = Value, E = Error> {
    answer: Answer,
    types: PhantomData<fn() -> (T, E)>,
}

/// A handle to a mock that is in place. Dropping it does not remove the mock.
#[derive(Clone)]
pub struct Mocked(Arc<mocks::Mock>);

struct Slot {
    state: Arc<TestState>,
    api: Name,
    procedure: Name,
    arguments: Option<Arguments>,
    contract: Option<&'static Contract>,
}

impl TestBus {
    /// Mocks procedures of an API through its client, so that the compiler checks arguments and answers.
    ///
    /// If several mocks match a call, the latest one answers. A call that no mock matches goes to the
    /// service that the test runs for the API, or fails.
    ///
    /// ```
    /// # use lightbus::{prelude::*, testing::TestBus};
    /// # #[lightbus::api(name = "auth")] pub trait Auth { async fn check_password(&self, username: String, password: String) -> bool; }
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lightbus::Result<()> {
    /// let test = TestBus::start().await?;
    /// test.mock::<AuthClient>().any_call(|auth| auth.check_password("", "")).returns(false);
    /// test.mock::<AuthClient>().call(|auth| auth.check_password("admin", "secret")).returns(true);
    ///
    /// let auth = AuthClient::new(&test);
    /// assert!(auth.check_password("admin", "secret").await?);
    /// assert!(!auth.check_password("admin", "guess").await?);
    /// # Ok(()) }
    /// ```
    pub fn mock<C: Client>(&self) -> MockApi<'_, C> {
        MockApi { test: self, client: PhantomData }
    }

    /// Mocks a procedure by name, such as `auth.check_password`, for APIs without a contract in Rust.
    /// Python's `mock_rpc_call`.
    ///
    /// # Panics
    ///
    /// If the name has no dot.
    ///
    /// ```
    /// # use lightbus::{prelude::*, testing::TestBus};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lightbus::Result<()> {
    /// let test = TestBus::start().await?;
    /// test.mock_rpc_call("auth.check_password").with(args! { username: "admin" }).returns(true);
    /// assert!(test.call::<bool>("auth.check_password", args! { username: "admin" }).await?);
    /// # Ok(()) }
    /// ```
    #[track_caller]
    pub fn mock_rpc_call(&self, procedure: &str) -> MockByName {
        let (api, procedure) = name::split(procedure).unwrap_or_else(|error| panic!("{error}"));
        MockByName { slot: Slot::new(&self.state, api.into(), procedure.into(), None) }
    }

    /// Allows an event to be fired. Only needed with
    /// [`require_mocking`](super::TestBusBuilder::require_mocking). Python's `mock_event_firing`.
    pub fn mock_event_firing(&self, event: &str) {
        self.state.mocks.allow_event(event);
    }

    /// Allows an event to be fired, by its type.
    pub fn mock_event<E: Event>(&self) {
        self.mock_event_firing(&format!("{}.{}", E::api().name, E::CONTRACT.name));
    }
}

impl<C: Client> MockApi<'_, C> {
    /// Mocks calls with exactly these arguments.
    ///
    /// # Panics
    ///
    /// If an argument cannot be encoded as JSON.
    #[track_caller]
    pub fn call<T, E>(self, call: impl FnOnce(&C) -> Call<T, E>) -> Mock<T, E> {
        let (mut slot, fields) = self.slot(call);
        slot.arguments = Some(fields.unwrap_or_else(|error| panic!("{error}")));
        Mock { slot, types: PhantomData }
    }

    /// Mocks all calls of a procedure. The arguments given here are ignored.
    pub fn any_call<T, E>(self, call: impl FnOnce(&C) -> Call<T, E>) -> Mock<T, E> {
        Mock { slot: self.slot(call).0, types: PhantomData }
    }

    /// Mocks a procedure by name. Arguments and results are validated against the contract at run time.
    ///
    /// # Panics
    ///
    /// If the API has no such procedure.
    #[track_caller]
    pub fn procedure(self, name: &str) -> MockByName {
        let contract = C::contract();
        if contract.procedure(name).is_none() {
            let known: Vec<_> = contract.procedures.iter().map(|known| known.name).collect();
            panic!(
                "the API `{}` has no procedure `{name}` to mock; it has: {}",
                contract.name,
                known.join(", ")
            );
        }
        let slot = Slot::new(&self.test.state, contract.name.into(), name.into(), Some(contract));
        MockByName { slot }
    }

    fn slot<T, E>(&self, call: impl FnOnce(&C) -> Call<T, E>) -> (Slot, Result<Arguments>) {
        let (api, procedure, fields) = call(&C::new(self.test.bus())).into_parts();
        (Slot::new(&self.test.state, api, procedure, Some(C::contract())), fields)
    }
}

impl<T: Serialize + 'static, E: Declared + 'static> Mock<T, E> {
    /// Answers each call with a value.
    ///
    /// # Panics
    ///
    /// If the value cannot be encoded as JSON.
    #[track_caller]
    pub fn returns(self, value: T) -> Mocked {
        self.slot.always(encoded(&value))
    }

    /// Answers each call with an error that the API declares.
    pub fn fails(self, error: E::Error) -> Mocked {
        self.slot.always(Answer::Given(Err(error.to_remote())))
    }

    /// Answers each call with the result of a function.
    pub fn answers(
        self,
        answer: impl Fn(&Called) -> Result<T, E::Error> + Send + Sync + 'static,
    ) -> Mocked {
        self.slot.always(run(move |called| {
            let body = to_body(answer(&called));
            Box::pin(std::future::ready(body))
        }))
    }

    /// Answers each call with the result of an async function. Its future is dropped with the call's.
    pub fn answers_later<F>(self, answer: impl Fn(Called) -> F + Send + Sync + 'static) -> Mocked
    where
        F: Future<Output = Result<T, E::Error>> + Send + 'static,
    {
        self.slot.always(run(move |called| {
            let answer = answer(called);
            Box::pin(async move { to_body(answer.await) })
        }))
    }

    /// Answers one call with each of the replies, in order. Once they are used up, earlier mocks answer,
    /// or calls fail.
    pub fn in_turn(self, replies: impl IntoIterator<Item = Reply<T, E>>) -> Mocked {
        self.slot.in_turn(replies.into_iter().map(|reply| reply.answer))
    }

    /// Answers one call with each of the values, in order. See [`in_turn`](Self::in_turn).
    ///
    /// # Panics
    ///
    /// If a value cannot be encoded as JSON.
    #[track_caller]
    pub fn returns_in_turn(self, values: impl IntoIterator<Item = T>) -> Mocked {
        let answers: Vec<_> = values.into_iter().map(|value| encoded(&value)).collect();
        self.slot.in_turn(answers)
    }
}

impl<T, E> Mock<T, E> {
    /// Answers each call with an error with this text, as if the procedure had failed unexpectedly.
    pub fn fails_with(self, message: impl Into<String>) -> Mocked {
        self.slot.always(failure(message.into()))
    }

    /// Answers each call with an error as it arrives over the bus, with its name and trace.
    pub fn fails_remotely(self, error: RemoteError) -> Mocked {
        self.slot.always(Answer::Given(Err(error)))
    }

    /// Fails each call with an error of the bus, as if the broker were unavailable:
    /// `Error::new(ErrorKind::Unavailable, "…")`.
    pub fn refuses(self, error: Error) -> Mocked {
        self.slot.always(Answer::Refused(error))
    }

    /// Never answers, so calls time out. With time paused, that takes no time.
    pub fn never_answers(self) -> Mocked {
        self.slot.always(Answer::Never)
    }
}

impl MockByName {
    /// Mocks only calls with exactly these arguments: `args! { username: "admin" }`.
    ///
    /// # Panics
    ///
    /// If an argument cannot be encoded as JSON.
    #[track_caller]
    pub fn with(mut self, args: impl Into<Args>) -> Self {
        let fields = args.into().into_fields().unwrap_or_else(|error| panic!("{error}"));
        self.slot.arguments = Some(fields);
        self
    }

    /// Answers each call with a value.
    ///
    /// # Panics
    ///
    /// If the value cannot be encoded as JSON.
    #[track_caller]
    pub fn returns(self, value: impl Serialize) -> Mocked {
        self.slot.always(encoded(&value))
    }

    /// Answers each call with an error of an API, or with a text.
    pub fn fails(self, error: impl ApiError) -> Mocked {
        self.slot.always(Answer::Given(Err(error.to_remote())))
    }

    /// Answers each call with an error with this text, as if the procedure had failed unexpectedly.
    pub fn fails_with(self, message: impl Into<String>) -> Mocked {
        self.slot.always(failure(message.into()))
    }

    /// Answers each call with an error as it arrives over the bus, with its name and trace.
    pub fn fails_remotely(self, error: RemoteError) -> Mocked {
        self.slot.always(Answer::Given(Err(error)))
    }

    /// Fails each call with an error of the bus, as if the broker were unavailable.
    pub fn refuses(self, error: Error) -> Mocked {
        self.slot.always(Answer::Refused(error))
    }

    /// Answers each call with the result of a function.
    pub fn answers<T: Serialize>(
        self,
        answer: impl Fn(&Called) -> Result<T, String> + Send + Sync + 'static,
    ) -> Mocked {
        self.slot.always(run(move |called| {
            let body = to_body(answer(&called));
            Box::pin(std::future::ready(body))
        }))
    }

    /// Answers one call with each of the replies, in order. See [`Mock::in_turn`].
    pub fn in_turn(self, replies: impl IntoIterator<Item = Reply>) -> Mocked {
        self.slot.in_turn(replies.into_iter().map(|reply| reply.answer))
    }

    /// Never answers, so calls time out.
    pub fn never_answers(self) -> Mocked {
        self.slot.always(Answer::Never)
    }
}

impl<T: Serialize, E: Declared> Reply<T, E> {
    /// Replies with a value.
    ///
    /// # Panics
    ///
    /// If the value cannot be encoded as JSON.
    #[track_caller]
    #[must_use]
    pub fn value(value: T) -> Self {
        Self { answer: encoded(&value), types: PhantomData }
    }

    /// Replies with an error that the API declares.
    #[must_use]
    pub fn error(error: E::Error) -> Self {
        Self { answer: Answer::Given(Err(error.to_remote())), types: PhantomData }
    }
}

impl<T, E> Reply<T, E> {
    /// Replies with an error with this text, as if the procedure had failed unexpectedly.
    pub fn failure(message: impl Into<String>) -> Self {
        Self { answer: failure(message.into()), types: PhantomData }
    }

    /// Fails the call with an error of the bus, as if the broker were unavailable.
    #[must_use]
    pub fn refusal(error: Error) -> Self {
        Self { answer: Answer::Refused(error), types: PhantomData }
    }

    /// Does not reply, so the call times out.
    #[must_use]
    pub fn never() -> Self {
        Self { answer: Answer::Never, types: PhantomData }
    }
}

impl Mocked {
    /// Returns how many calls it has answered, including those being answered.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.answered.load(Ordering::Relaxed)
    }
}

impl Slot {
    fn new(
        state: &Arc<TestState>,
        api: Name,
        procedure: Name,
        contract: Option<&'static Contract>,
    ) -> Self {
        Self { state: Arc::clone(state), api, procedure, arguments: None, contract }
    }

    fn always(self, answer: Answer) -> Mocked {
        self.add(Script::Always(answer))
    }

    fn in_turn(self, answers: impl IntoIterator<Item = Answer>) -> Mocked {
        self.add(Script::InTurn(answers.into_iter().collect::<VecDeque<_>>()))
    }

    fn add(self, script: Script) -> Mocked {
        let Self { state, api, procedure, arguments, contract } = self;
        let script = Mutex::new(script);
        let answered = AtomicUsize::new(0);
        let mock = mocks::Mock { api, procedure, arguments, script, answered };
        Mocked(state.mocks.add(mock, contract))
    }
}

fn run(
    answer: impl Fn(Called) -> BoxFuture<'static, Result<Bytes, RemoteError>> + Send + Sync + 'static,
) -> Answer {
    Answer::Run(Arc::new(answer))
}

fn failure(message: String) -> Answer {
    Answer::Given(Err(RemoteError { message, ..RemoteError::default() }))
}

#[track_caller]
fn encoded<T: Serialize + ?Sized>(value: &T) -> Answer {
    let bytes = codec::encode(value).unwrap_or_else(|error| panic!("a mock's answer: {error}"));
    Answer::Given(Ok(bytes))
}

fn to_body<T: Serialize>(answer: Result<T, impl ApiError>) -> Result<Bytes, RemoteError> {
    match answer {
        Ok(value) => codec::encode(&value).map_err(|error| error.to_remote()),
        Err(error) => Err(error.to_remote()),
    }
}

impl<C: Client> fmt::Debug for MockApi<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MockApi").field("api", &C::contract().name).finish_non_exhaustive()
    }
}

impl<T, E> fmt::Debug for Mock<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.fmt(f)
    }
}

impl fmt::Debug for MockByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.slot.fmt(f)
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mock")
            .field("api", &self.api)
            .field("procedure", &self.procedure)
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

impl<T, E> fmt::Debug for Reply<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").finish_non_exhaustive()
    }
}

impl fmt::Debug for Mocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mocked")
            .field("api", &self.0.api)
            .field("procedure", &self.0.procedure)
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}
