//! The state shared by all processes of a test, and the probe of it that each process's bus has.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use lightbus_core::{
    Arguments, Error, ErrorKind, EventMessage, Name, Result, ResultMessage, ReturnPath, RpcMessage,
    transport::{EventTransport, ListenSpec, ResultTransport},
};

use super::{
    called::shown,
    in_flight::{InFlight, Ticket, Work},
    mocks::Mocks,
    record::Record,
};
use crate::{bus::TestProbe, schema::SchemaStore};

/// The state shared by all processes of a test.
pub(super) struct TestState {
    pub(super) in_flight: Arc<InFlight>,
    pub(super) record: Record,
    pub(super) mocks: Mocks,
    pub(super) policy: Policy,
    state: Mutex<State>,
}

/// What is allowed without a mock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Policy {
    /// Calls to APIs that the test serves, and all events.
    #[default]
    Served,
    /// Everything: services outside of the test may answer.
    Everything,
    /// Nothing, as in Python.
    Nothing,
}

#[derive(Default)]
struct State {
    /// The number of workers of each API in the test.
    served: BTreeMap<Name, usize>,
    results: Vec<Arc<dyn ResultTransport>>,
    listeners: HashMap<u64, (Arc<dyn EventTransport>, ListenSpec)>,
    last_listener: u64,
}

impl TestState {
    pub(super) fn new(keep: usize, policy: Policy) -> Self {
        Self {
            in_flight: Arc::default(),
            record: Record::new(keep),
            mocks: Mocks::default(),
            policy,
            state: Mutex::default(),
        }
    }

    /// Refuses a call that neither a mock nor a service of the test would answer.
    fn check_call(&self, api: &Name, procedure: &Name, fields: &Arguments) -> Result<()> {
        let path = format!("{api}.{procedure}");
        let why = match self.mocks.knows(&path, fields) {
            Known::Fits => return Ok(()),
            _ if self.policy == Policy::Everything => return Ok(()),
            _ if self.policy == Policy::Served && self.state().served.contains_key(api) => {
                return Ok(());
            }
            Known::Otherwise => "no mock matches these arguments",
            Known::Exhausted => "the mock has used up its answers",
            Known::No if self.policy == Policy::Nothing => "it is not mocked",
            Known::No => "it is neither mocked nor served in this test",
        };
        self.record.refused(format!("the call {path}({})", shown(fields)));
        let served: Vec<_> = self.state().served.keys().cloned().collect();
        let mocked = self.mocks.describe();
        Err(Error::new(ErrorKind::Unknown, why)
            .with("arguments", or_none(&shown(fields)))
            .with("mocked", or_none(&mocked.join("; ")))
            .with("served", or_none(&served.join(", ")))
            .hint(format!(
                "Mock it with `test.mock_rpc_call(\"{path}\").returns(…)`, or serve the API in the test"
            )))
    }

    /// Refuses an event that is not mocked, where everything must be.
    pub(super) fn check_event(&self, event: &EventMessage) -> Result<()> {
        let path = format!("{}.{}", event.api, event.event);
        if self.policy != Policy::Nothing || self.mocks.allows_event(&path) {
            return Ok(());
        }
        self.record.refused(format!("the event {path}({})", shown(&event.fields)));
        Err(Error::new(ErrorKind::Unknown, "the event is not mocked")
            .with("arguments", or_none(&shown(&event.fields)))
            .with("mocked", or_none(&self.mocks.events().join(", ")))
            .hint(format!("Allow it with `test.mock_event_firing(\"{path}\")`")))
    }

    pub(super) fn serves(&self, apis: &[Name]) {
        let mut state = self.state();
        for api in apis {
            *state.served.entry(Name::clone(api)).or_default() += 1;
        }
    }

    pub(super) fn stops_serving(&self, apis: &[Name]) {
        let mut state = self.state();
        for api in apis {
            if let Some(workers) = state.served.get_mut(api) {
                *workers -= 1;
                if *workers == 0 {
                    state.served.remove(api);
                }
            }
        }
    }

    pub(super) fn add_results(&self, transport: Arc<dyn ResultTransport>) {
        self.state().results.push(transport);
    }

    /// Sends the answer of a mock as a worker would, by the transport that knows the return path.
    pub(super) async fn reply(&self, to: &ReturnPath, result: ResultMessage) -> Result<()> {
        let transports = self.state().results.clone();
        let mut last = Error::new(ErrorKind::Unexpected, "no transport carries results");
        for transport in transports {
            match transport.reply(to, result.clone()).await {
                Err(error) if matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Closed) => {
                    last = error;
                }
                sent => return sent,
            }
        }
        Err(last)
    }

    pub(super) fn add_listener(&self, transport: Arc<dyn EventTransport>, spec: ListenSpec) -> u64 {
        self.in_flight.joined(&spec);
        let mut state = self.state();
        state.last_listener += 1;
        let number = state.last_listener;
        state.listeners.insert(number, (transport, spec));
        number
    }

    pub(super) fn remove_listener(&self, number: u64) {
        let removed = self.state().listeners.remove(&number);
        if let Some((_, spec)) = removed {
            self.in_flight.left(&spec);
        }
    }

    /// Returns a description of a listener that has a backlog although nothing is known to be in flight:
    /// it reads past events, or a service outside of the test has fired.
    pub(super) async fn lagging(&self) -> Result<Option<String>> {
        let listeners: Vec<_> = self.state().listeners.values().cloned().collect();
        for (transport, spec) in listeners {
            if !transport.capabilities().lag {
                continue;
            }
            let lag = transport.lag(&spec.group, &spec.events).await?;
            if lag.waiting + lag.pending > 0 {
                return Ok(Some(format!(
                    "\n  at the broker for the listener {}: {} waiting, {} taken",
                    spec.group, lag.waiting, lag.pending
                )));
            }
        }
        Ok(None)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the mocks match a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// A mock answers it.
    Fits,
    /// Only calls with other arguments are mocked.
    Otherwise,
    /// A mock matches, and its answers are used up.
    Exhausted,
    /// The procedure is not mocked.
    No,
}

impl fmt::Debug for TestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestState").field("policy", &self.policy).finish_non_exhaustive()
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// The part of the test that a process's bus knows.
pub(super) struct Probe {
    state: Arc<TestState>,
    /// The generation of mocks whose schemas this process has read.
    seen: AtomicU64,
}

impl Probe {
    pub(super) fn new(state: &Arc<TestState>) -> Self {
        Self { state: Arc::clone(state), seen: AtomicU64::new(0) }
    }
}

#[async_trait]
impl TestProbe for Probe {
    async fn begin_call(
        &self,
        api: &Name,
        procedure: &Name,
        fields: &Arguments,
        schema: &SchemaStore,
    ) -> Result<Box<dyn Any + Send>> {
        self.state.check_call(api, procedure, fields)?;
        let ticket = self.state.in_flight.begin(Work::Call, format!("{api}.{procedure}"));
        // Mocks added since the schemas were read have added theirs.
        let now = self.state.mocks.generation();
        if self.seen.load(Ordering::Acquire) != now {
            schema.load().await?;
            self.seen.store(now, Ordering::Release);
        }
        Ok(Box::new(ticket))
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

/// The calls that a worker has taken, each counted until it is settled.
pub(super) struct ProceduresInFlight {
    state: Arc<TestState>,
    apis: Vec<Name>,
    tickets: Mutex<HashMap<Name, Ticket>>,
}

impl ProceduresInFlight {
    pub(super) fn new(state: &Arc<TestState>, apis: Vec<Name>) -> Self {
        state.serves(&apis);
        Self { state: Arc::clone(state), apis, tickets: Mutex::default() }
    }

    pub(super) fn begin(&self, call: &RpcMessage) {
        let what = format!("{}.{}", call.api, call.procedure);
        let ticket = self.state.in_flight.begin(Work::Procedure, what);
        self.lock().insert(Name::clone(&call.id), ticket);
    }

    pub(super) fn end(&self, call: &RpcMessage) {
        let ended = self.lock().remove(&call.id);
        drop(ended);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Ticket>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ProceduresInFlight {
    fn drop(&mut self) {
        self.state.stops_serving(&self.apis);
    }
}
