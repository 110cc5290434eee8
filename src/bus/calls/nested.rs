//! Calls that procedures make to APIs of their own process.
//!
//! A worker with all slots taken takes no calls until one is free. If the procedures that have the slots
//! wait for calls to that worker, no slot is ever free, and all of them time out. So a call that a
//! procedure makes to an API of its own process runs in place, within its caller's slot, when that API's
//! worker has no free slot. The caller uses its slot for nothing else while it waits, so no more
//! procedures run than configured.
//!
//! Whoever takes the last slot finds none free and runs in place; it ends, and its slot serves a call
//! that waits at the broker. This holds for chains across APIs of the process too. Workers in different
//! processes that wait for each other are not helped: there, deadlines end the calls.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use lightbus_core::{Error, ErrorKind, Name, RemoteError, Result, RpcMessage};
use tokio::time::Instant;

use crate::bus::shared::Inner;

/// How many calls may run in place within each other: they share a stack.
const MOST_IN_PLACE: u32 = 16;

tokio::task_local! {
    /// The call that this task handles.
    static CURRENT: Current;
}

/// What calls inherit that are made while a call is handled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Current {
    /// Calls that are made from within wait no longer than this.
    pub(super) deadline: Option<Instant>,
    /// How many calls run in place around it.
    in_place: u32,
}

impl Current {
    /// Returns the call that this task handles, if it does.
    pub(super) fn get() -> Option<Self> {
        CURRENT.try_with(|current| *current).ok()
    }

    /// Handles a call that was made from within this one, or, by `default`, one that was taken from the
    /// broker.
    pub(super) async fn handle<T>(
        self,
        deadline: Option<Instant>,
        procedure: impl Future<Output = T>,
    ) -> T {
        CURRENT.scope(Self { deadline, ..self }, procedure).await
    }
}

/// A worker that can run a call in its caller's place.
pub(crate) trait LocalWorker: Send + Sync {
    /// Whether all its slots are taken.
    fn is_full(&self) -> bool;

    /// Runs a call within the call that this task handles.
    fn run_in_place(
        self: Arc<Self>,
        call: RpcMessage,
    ) -> BoxFuture<'static, Result<bytes::Bytes, RemoteError>>;
}

/// A worker, and the call in whose place it is to run another one.
pub(super) struct InPlace {
    worker: Arc<dyn LocalWorker>,
    current: Current,
}

impl InPlace {
    /// Returns this process's worker of an API if a procedure calls it. `None` outside of procedures.
    pub(super) fn of(inner: &Inner, api: &Name, current: Option<Current>) -> Option<Self> {
        let current = current?;
        let worker = inner.state().workers.get(api)?.upgrade()?;
        Some(Self { worker, current })
    }

    /// Whether the worker takes no call from the broker now.
    pub(super) fn is_needed(&self) -> bool {
        self.worker.is_full()
    }

    /// Runs a call.
    pub(super) async fn run(self, call: RpcMessage) -> Result<Result<bytes::Bytes, RemoteError>> {
        let in_place = self.current.in_place + 1;
        if in_place > MOST_IN_PLACE {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{MOST_IN_PLACE} calls of this process wait for each other already"),
            )
            .with("slots", "all taken")
            .hint(
                "Does a procedure call itself? If not, raise `bus.max_calls_at_work`, or serve the APIs in different processes",
            ));
        }
        let run = self.worker.run_in_place(call);
        Ok(CURRENT.scope(Current { in_place, ..self.current }, run).await)
    }
}
