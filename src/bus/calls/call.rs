//! Calling a procedure of any API on the bus.

use std::{
    fmt,
    future::IntoFuture,
    marker::PhantomData,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{
    Args, Arguments, Error, ErrorKind, Headers, Name, Result, ResultMessage, Retry, RpcMessage,
    codec, name, time::after,
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use super::nested::{Current, InPlace};
use crate::{
    bus::shared::{ApiEntry, Bus, Inner, at},
    contract::{ApiError, CallError},
};

/// A call that has been prepared. Await it to send it and receive the result.
///
/// # Cancel safety
///
/// Nothing is sent before the first poll. Dropping the future abandons the call and frees its slot at
/// once; a worker may still run it.
#[must_use = "a call is made when it is awaited"]
pub struct Call<T, E = Error> {
    bus: Bus,
    api: Name,
    procedure: Name,
    fields: Result<Arguments>,
    timeout: Option<Duration>,
    headers: Headers,
    result: PhantomData<fn() -> (T, E)>,
}

impl<T, E> Call<T, E> {
    pub(crate) fn new(bus: Bus, api: Name, procedure: Name, fields: Result<Arguments>) -> Self {
        Self {
            bus,
            api,
            procedure,
            fields,
            timeout: None,
            headers: Headers::new(),
            result: PhantomData,
        }
    }

    /// Sets how long to wait for the result, in place of the API's `rpc_timeout`. A call that no
    /// worker has taken by then is never run. A call made from within a handler waits no longer than
    /// the caller of that handler does.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The API, the procedure and the arguments, for a mock.
    #[cfg(feature = "testing")]
    pub(crate) fn into_parts(self) -> (Name, Name, Result<Arguments>) {
        (self.api, self.procedure, self.fields)
    }

    /// Adds a header, such as `traceparent`.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.set(name, value);
        self
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::Error {}
    impl<E> Sealed for super::CallError<E> {}
}

/// The error type of a [`Call`]: [`Error`], or [`CallError`] where the procedure declares errors of
/// its own. Sealed.
pub trait CallFailure: sealed::Sealed + Sized + Send {
    /// Converts the error of a failed call.
    #[doc(hidden)]
    fn from_error(error: Error) -> Self;
}

impl CallFailure for Error {
    fn from_error(error: Error) -> Self {
        error
    }
}

impl<E: ApiError> CallFailure for CallError<E> {
    fn from_error(error: Error) -> Self {
        match error.remote().and_then(E::from_remote) {
            Some(declared) => Self::Api(declared),
            None => Self::Bus(error),
        }
    }
}

impl<T: DeserializeOwned + 'static, E: CallFailure + 'static> IntoFuture for Call<T, E> {
    type Output = Result<T, E>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { bus, api, procedure, fields, timeout, headers, .. } = self;
            let call = async {
                let result = bus.inner().call(&api, &procedure, fields?, timeout, headers).await?;
                codec::decode(&result).map_err(|error| error.with("part", "the result"))
            };
            call.await
                .map_err(|error| E::from_error(error.during(format!("calling {api}.{procedure}"))))
        })
    }
}

/// How far a call has come.
#[derive(Default)]
struct Stage(AtomicU8);

impl Stage {
    /// It may have reached the broker.
    const SENDING: u8 = 1;
    /// The broker has it, or its handler.
    const SENT: u8 = 2;
    /// No process serves the API yet.
    const UNSERVED: u8 = 3;

    fn reach(&self, stage: u8) {
        self.0.store(stage, Ordering::Relaxed);
    }

    fn reached(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

impl<T, E> fmt::Debug for Call<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("api", &self.api)
            .field("procedure", &self.procedure)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Calls a procedure by name, such as `auth.check_password`, without a generated client. The result
    /// is deserialised into `T`.
    ///
    /// # Delivery
    ///
    /// At most once. After an error the procedure may or may not have run.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ErrorKind::Timeout) if no result arrives before the deadline, with the time that was
    /// waited: [`retryable`](Error::retryable) says whether the procedure may have run;
    /// [`Unavailable`](ErrorKind::Unavailable) if the broker does not answer or no process serves the
    /// API; [`Unknown`](ErrorKind::Unknown) and [`Invalid`](ErrorKind::Invalid) if the call does not
    /// match the API's schema; [`Remote`](ErrorKind::Remote) if the procedure failed.
    ///
    /// # Cancel safety
    ///
    /// See [`Call`].
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # async fn example(bus: &Bus) -> lightbus::Result<()> {
    /// let valid: bool = bus.call("auth.check_password", args! { username: "admin", password: "secret" }).await?;
    /// # Ok(()) }
    /// ```
    pub fn call<T>(&self, procedure: &str, args: impl Into<Args>) -> Call<T> {
        let (api, procedure, fields) = match name::split(procedure) {
            Ok((api, procedure)) => (api, procedure, args.into().into_fields()),
            Err(error) => ("", procedure, Err(error)),
        };
        Call::new(self.clone(), api.into(), procedure.into(), fields)
    }
}

impl Inner {
    /// Makes a call and returns the encoded result.
    pub(crate) async fn call(
        &self,
        api: &Name,
        procedure: &Name,
        fields: Arguments,
        timeout: Option<Duration>,
        headers: Headers,
    ) -> Result<Bytes> {
        self.ensure_open()?;
        #[cfg(feature = "testing")]
        let _in_flight = match &self.test {
            Some(test) => Some(test.begin_call(api, procedure, &fields, &self.schema).await?),
            None => None,
        };
        let entry = self.apis.entry(api);
        let now = Instant::now();
        let mut limit = timeout.unwrap_or(entry.config.rpc_timeout);
        let mut deadline = after(now, limit);
        let current = Current::get();
        if let Some(outer) =
            current.and_then(|current| current.deadline).filter(|at| *at < deadline)
        {
            deadline = outer;
            limit = outer.saturating_duration_since(now);
        }
        let permit = self.calls.try_acquire().ok();
        let in_place = InPlace::of(self, api, current)
            .filter(|in_place| permit.is_none() || in_place.is_needed());
        let _permit = match permit {
            None if in_place.is_none() => Some(self.wait_for_permit(limit, deadline).await?),
            permit => permit,
        };
        let stage = Stage::default();
        let call = self.exchange(&entry, procedure, fields, headers, deadline, in_place, &stage);
        match timeout_at(deadline, call).await {
            Ok(result) => result.map_err(|error| match error.kind() {
                ErrorKind::Unavailable | ErrorKind::Unexpected => at(&*entry.rpc, error),
                _ => error,
            }),
            Err(_) => Err(self.no_answer(&entry, &stage, limit)),
        }
    }

    /// Queues behind the calls that are already waiting.
    async fn wait_for_permit(
        &self,
        limit: Duration,
        deadline: Instant,
    ) -> Result<SemaphorePermit<'_>> {
        let permit = timeout_at(deadline, self.calls.acquire()).await.map_err(|_| {
            let most = self.config.bus.max_calls_in_flight;
            Error::timeout("too many calls were waiting for results: none finished in time", limit)
                .retry(Retry::Safe)
                .with("bus.max_calls_in_flight", most)
                .hint("Nothing was sent. Make fewer concurrent calls, or raise `bus.max_calls_in_flight`")
        })?;
        permit.map_err(|_| Error::closed("the bus"))
    }

    #[expect(clippy::too_many_arguments, reason = "what a call consists of")]
    async fn exchange(
        &self,
        entry: &ApiEntry,
        procedure: &Name,
        fields: Arguments,
        headers: Headers,
        deadline: Instant,
        in_place: Option<InPlace>,
        stage: &Stage,
    ) -> Result<Bytes> {
        let mut call = RpcMessage {
            id: self.ids.next(),
            api: Name::clone(&entry.name),
            procedure: Name::clone(procedure),
            fields,
            headers,
            // Set once the result transport has said where the result goes.
            return_path: self.nowhere.clone(),
            deadline,
        };
        if !self.plugins.is_empty() {
            // Boxed: without plugins, the future stays small.
            Box::pin(self.plugins.before_rpc_call(&mut call)).await?;
        }
        entry.check_size(&call.fields)?;
        entry.open().await?;
        let schema = self
            .schema_for(
                entry,
                entry.config.validate.outgoing || entry.config.validate.incoming,
                stage,
            )
            .await?;
        if let (true, Some(schema)) = (entry.config.validate.outgoing, &schema) {
            schema.check_call(procedure, &call.fields)?;
        }
        let kept = (!self.plugins.is_empty()).then(|| Box::new(call.clone()));
        let mut message = match in_place {
            None => self.send(entry, call, stage).await?,
            Some(in_place) => {
                stage.reach(Stage::SENT);
                ResultMessage {
                    id: self.ids.next(),
                    rpc_id: Name::clone(&call.id),
                    headers: Headers::new(),
                    body: in_place.run(call).await?,
                }
            }
        };
        if let Some(call) = kept {
            Box::pin(self.plugins.after_rpc_call(&call, &mut message)).await?;
        }
        let value = message.body.map_err(Error::from_remote)?;
        entry.check_result_size(&value)?;
        if let (true, Some(schema)) = (entry.config.validate.incoming, &schema) {
            schema.check_result(procedure, &value)?;
        }
        Ok(value)
    }

    /// Sends a call, and waits for its result.
    async fn send(
        &self,
        entry: &ApiEntry,
        mut call: RpcMessage,
        stage: &Stage,
    ) -> Result<ResultMessage> {
        let mut result = entry.result.expect(&call.id).await?;
        call.return_path = result.return_path().clone();
        stage.reach(Stage::SENDING);
        let mut sending = entry.rpc.call(call);
        let mut sent = false;
        // The result may arrive before the broker has confirmed the call.
        loop {
            tokio::select! {
                biased;
                message = &mut result => return message,
                confirmed = &mut sending, if !sent => {
                    confirmed?;
                    sent = true;
                    stage.reach(Stage::SENT);
                }
            }
        }
    }

    /// The schema to validate messages of an API against. An API without one is not served yet: its
    /// service may be starting.
    async fn schema_for(
        &self,
        entry: &ApiEntry,
        checks: bool,
        stage: &Stage,
    ) -> Result<Option<std::sync::Arc<crate::schema::ApiSchema>>> {
        if !checks {
            return Ok(None);
        }
        match self.schema.find(&entry.name).await {
            Ok(Some(schema)) => Ok(Some(schema)),
            Ok(None) => {
                stage.reach(Stage::UNSERVED);
                let schema = self.schema.arrival(&entry.name).await?;
                stage.reach(Stage::default().reached());
                Ok(Some(schema))
            }
            Err(error) if entry.config.strict_validation => Err(error),
            Err(error) => {
                tracing::warn!(api = %entry.name, %error, "cannot read the schema; the call is sent without validation");
                Ok(None)
            }
        }
    }

    fn not_served(&self, entry: &ApiEntry) -> Error {
        let known = self.schema.apis();
        let error = Error::new(
            ErrorKind::Unavailable,
            format!("no process serves `{}`: its schema is not on the bus", entry.name),
        )
        .with("on the bus", if known.is_empty() { "nothing".to_owned() } else { known.join(", ") });
        at(&*entry.rpc, error)
            .hint("Is the service that serves it running, and on this broker?")
            .did_you_mean(&entry.name, known.iter().map(|name| &**name))
    }

    fn no_answer(&self, entry: &ApiEntry, stage: &Stage, limit: Duration) -> Error {
        // The rest is the clock's.
        let limit = Duration::from_micros(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX));
        let (what, retry, hint) = match stage.reached() {
            Stage::UNSERVED => return self.not_served(entry).with("limit", format!("{limit:?}")),
            Stage::SENT => ("no result arrived in time", Retry::MayDuplicate, None),
            Stage::SENDING => (
                "the broker did not confirm the call in time",
                Retry::MayDuplicate,
                Some("It may run nevertheless"),
            ),
            _ => (
                "the call was not sent in time",
                Retry::Safe,
                Some("Nothing was sent: is the broker slow to answer, or the timeout too short?"),
            ),
        };
        let error = at(&*entry.rpc, Error::timeout(what, limit).retry(retry));
        if let Some(hint) = hint {
            return error.hint(hint);
        }
        error.hint(if self.schema.is_live(&entry.name) {
            "A process served the API within the last minute: has it stopped, is it overloaded, or is the procedure slow?"
        } else if self.schema.get(&entry.name).is_some() {
            "The API's schema is not on the bus any more: has its service stopped, or can it not reach the broker?"
        } else {
            "No process has published the API's schema: is the service running?"
        })
    }
}
