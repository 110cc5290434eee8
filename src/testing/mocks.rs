//! The mocks of a test: finding the one that answers a call, and the schemas of mocked APIs.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{Arguments, Error, Name, RemoteError, Result, codec};
use serde_json::{Map, Value, json, value::RawValue};

use super::{
    called::{Called, same, shown},
    test_state::Known,
};
use crate::{contract::Contract, schema::document_text};

#[derive(Default)]
pub(super) struct Mocks(Mutex<State>);

#[derive(Default)]
struct State {
    generation: u64,
    mocks: Vec<Arc<Mock>>,
    contracts: BTreeMap<&'static str, &'static Contract>,
    events: BTreeSet<String>,
}

/// A mocked procedure.
pub(super) struct Mock {
    pub(super) api: Name,
    pub(super) procedure: Name,
    /// The arguments of the calls that it answers; `None` for all calls.
    pub(super) arguments: Option<Arguments>,
    pub(super) script: Mutex<Script>,
    pub(super) answered: AtomicUsize,
}

/// The answers of a mock.
pub(super) enum Script {
    Always(Answer),
    InTurn(VecDeque<Answer>),
}

type Run = dyn Fn(Called) -> BoxFuture<'static, Result<Bytes, RemoteError>> + Send + Sync;

/// The answer to a call.
#[derive(Clone)]
pub(super) enum Answer {
    /// The result of the procedure.
    Given(Result<Bytes, RemoteError>),
    /// The call itself fails.
    Refused(Error),
    /// No answer.
    Never,
    /// The result of a function.
    Run(Arc<Run>),
}

impl Answer {
    pub(super) async fn give(self, called: Called) -> Result<Result<Bytes, RemoteError>> {
        match self {
            Self::Given(body) => Ok(body),
            Self::Refused(error) => Err(error),
            Self::Never => std::future::pending().await,
            Self::Run(run) => Ok(run(called).await),
        }
    }
}

impl Mock {
    fn path(&self) -> String {
        format!("{}.{}", self.api, self.procedure)
    }

    fn fits(&self, fields: &Arguments) -> bool {
        self.arguments.as_ref().is_none_or(|wanted| same(wanted, fields))
    }

    fn next(&self) -> Option<Answer> {
        let answer = match &mut *lock(&self.script) {
            Script::Always(answer) => Some(answer.clone()),
            Script::InTurn(answers) => answers.pop_front(),
        };
        if answer.is_some() {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    fn is_exhausted(&self) -> bool {
        matches!(&*lock(&self.script), Script::InTurn(answers) if answers.is_empty())
    }
}

impl Mocks {
    /// Adds a mock. It takes precedence over all others.
    pub(super) fn add(&self, mock: Mock, contract: Option<&'static Contract>) -> Arc<Mock> {
        let mut state = self.lock();
        state.generation += 1;
        if let Some(contract) = contract {
            state.contracts.insert(contract.name, contract);
        }
        let mock = Arc::new(mock);
        state.mocks.push(Arc::clone(&mock));
        mock
    }

    pub(super) fn allow_event(&self, path: &str) {
        self.lock().events.insert(path.to_owned());
    }

    pub(super) fn allows_event(&self, path: &str) -> bool {
        self.lock().events.contains(path)
    }

    pub(super) fn events(&self) -> Vec<String> {
        self.lock().events.iter().cloned().collect()
    }

    /// Changes whenever a mock is added.
    pub(super) fn generation(&self) -> u64 {
        self.lock().generation
    }

    pub(super) fn knows(&self, path: &str, fields: &Arguments) -> Known {
        let mut known = Known::No;
        for mock in self.lock().mocks.iter().filter(|mock| mock.path() == path) {
            known = match (mock.fits(fields), mock.is_exhausted()) {
                (true, false) => return Known::Fits,
                (true, true) => Known::Exhausted,
                (false, _) if known == Known::No => Known::Otherwise,
                (false, _) => known,
            };
        }
        known
    }

    /// Returns the next answer of the latest mock that matches and is not used up.
    pub(super) fn answer(&self, api: &str, procedure: &str, fields: &Arguments) -> Option<Answer> {
        let mocks = self.lock().mocks.clone();
        let mut fitting = mocks
            .iter()
            .rev()
            .filter(|mock| *mock.api == *api && *mock.procedure == *procedure && mock.fits(fields));
        fitting.find_map(|mock| mock.next())
    }

    /// Returns the documents that describe the mocked APIs. Of an API mocked without a contract only the
    /// names of procedures are known, so any arguments are valid.
    pub(super) fn schemas(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        let state = self.lock();
        let mut untyped: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for mock in &state.mocks {
            if !state.contracts.contains_key(&*mock.api) {
                let rpcs = untyped.entry(mock.api.to_string()).or_default();
                rpcs.insert(mock.procedure.to_string(), json!({}));
            }
        }
        let contracts = state.contracts.values();
        let typed = contracts.map(|contract| Ok((contract.name.into(), document_text(contract)?)));
        let untyped = untyped.into_iter().map(|(api, rpcs)| {
            let document = json!({ "rpcs": rpcs, "events": {} });
            Ok((api, codec::decode(&codec::encode(&document)?)?))
        });
        typed.chain(untyped).collect()
    }

    /// Describes each mock for people.
    pub(super) fn describe(&self) -> Vec<String> {
        let state = self.lock();
        let mut lines: Vec<_> = state
            .mocks
            .iter()
            .map(|mock| {
                let arguments = mock.arguments.as_ref().map_or("…".to_owned(), shown);
                let exhausted = if mock.is_exhausted() { ", all answers given" } else { "" };
                format!("{}({arguments}){exhausted}", mock.path())
            })
            .collect();
        lines.dedup();
        lines
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

impl fmt::Debug for Mocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.describe()).finish()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mock(arguments: Option<&str>, script: Script) -> Mock {
        Mock {
            api: "auth".into(),
            procedure: "check".into(),
            arguments: arguments.map(name),
            script: Mutex::new(script),
            answered: AtomicUsize::new(0),
        }
    }

    fn name(value: &str) -> Arguments {
        [("name".into(), format!("\"{value}\"").into())].into_iter().collect()
    }

    fn given(text: &'static str) -> Answer {
        Answer::Given(Ok(Bytes::from_static(text.as_bytes())))
    }

    fn text(answer: Option<Answer>) -> String {
        match answer {
            Some(Answer::Given(Ok(bytes))) => String::from_utf8_lossy(&bytes).into_owned(),
            _ => "no".to_owned(),
        }
    }

    #[test]
    fn the_latest_that_fits_answers() {
        let mocks = Mocks::default();
        mocks.add(mock(None, Script::Always(given("1"))), None);
        mocks.add(mock(Some("a"), Script::InTurn([given("2"), given("3")].into())), None);
        assert_eq!(text(mocks.answer("auth", "check", &name("b"))), "1");
        assert_eq!(text(mocks.answer("auth", "check", &name("a"))), "2");
        assert_eq!(text(mocks.answer("auth", "check", &name("a"))), "3");
        assert_eq!(text(mocks.answer("auth", "check", &name("a"))), "1", "those before it go on");
        assert_eq!(text(mocks.answer("auth", "other", &name("a"))), "no");
    }

    #[test]
    fn what_does_not_fit_is_told_from_what_is_not_there() {
        let mocks = Mocks::default();
        mocks.add(mock(Some("a"), Script::InTurn([given("1")].into())), None);
        assert_eq!(mocks.knows("auth.check", &name("a")), Known::Fits);
        assert_eq!(mocks.knows("auth.check", &name("b")), Known::Otherwise);
        assert_eq!(mocks.knows("auth.other", &name("b")), Known::No);
        mocks.answer("auth", "check", &name("a"));
        assert_eq!(mocks.knows("auth.check", &name("a")), Known::Exhausted);
        assert_eq!(mocks.describe(), [r#"auth.check(name: "a"), all answers given"#]);
    }

    #[test]
    fn a_mock_without_a_contract_takes_and_gives_anything() {
        let mocks = Mocks::default();
        mocks.add(mock(None, Script::Always(given("1"))), None);
        let schemas = mocks.schemas().unwrap();
        assert_eq!(schemas["auth"].get(), r#"{"events":{},"rpcs":{"check":{}}}"#);
    }
}
