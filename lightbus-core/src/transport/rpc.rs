//! Calls: from any caller to one worker.

use async_trait::async_trait;

use super::{FlowControl, Transport};
use crate::{Error, Name, Result, RpcMessage, Subscription};

/// What a worker serves.
#[derive(Clone, Debug)]
pub struct ServeSpec {
    /// The APIs whose calls to take.
    pub apis: Vec<Name>,
    /// How much to take at once.
    pub flow: FlowControl,
}

/// Carries calls to the workers of an API.
#[async_trait]
pub trait RpcTransport: Transport {
    /// Hands a call to the broker.
    ///
    /// # Delivery
    ///
    /// At most once. `Ok` means that the broker has it; whether somebody serves the API is not
    /// known (case `a_call_waits_for_its_worker`). No worker is handed it after
    /// [`RpcMessage::deadline`] (case `an_expired_call_is_not_run`).
    ///
    /// # Ordering
    ///
    /// None between calls.
    ///
    /// # Errors
    ///
    /// [`Error::too_late`](crate::Error::too_late) if the deadline passes before the call is sent,
    /// [`Error::unconfirmed`](crate::Error::unconfirmed) if it passes before the broker has confirmed it.
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the broker cannot be reached, and that is known
    /// earlier. [`TooLarge`](crate::ErrorKind::TooLarge) where the broker limits size.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the call was sent or it was not: treat it as sent.
    ///
    /// # Implementing
    ///
    /// Send how long the caller still waits, as [`Headers::TIME_LEFT_MS`](crate::Headers::TIME_LEFT_MS).
    /// Do not hold a connection per call. Send the calls of many callers together.
    async fn call(&self, call: RpcMessage) -> Result<()>;

    /// Takes calls of these APIs, in competition with all other workers.
    ///
    /// # Delivery
    ///
    /// Each call to one worker of the fleet (cases `each_call_runs_once`,
    /// `two_workers_share_the_calls`). Calls that were sent before `serve` and have not expired are
    /// delivered. A call lost with its worker stays lost.
    ///
    /// # Ordering
    ///
    /// By queue, as the broker keeps it; callers must not rely on it.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) for an empty list,
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the broker is away now. Once the subscription
    /// stands it reconnects by itself (case `a_worker_survives_a_broker_restart`).
    ///
    /// # Implementing
    ///
    /// Return [`Subscription::spawn`] over a [`Source`](crate::Source), or over a
    /// [`Merge`](crate::Merge) of several. Set [`RpcMessage::deadline`] from the time left, less what
    /// passed since the call was sent.
    ///
    /// A message that cannot be read is acknowledged and logged, and the worker goes on (case
    /// `a_malformed_call_is_set_aside`). If its id and return path can be made out, it is answered: a
    /// result whose body is a [`RemoteError`](crate::RemoteError) that says why it cannot be read.
    async fn serve(&self, spec: ServeSpec) -> Result<Subscription<RpcMessage>>;

    /// Returns how many calls of an API wait at the broker for a worker. Expired ones may count until a
    /// worker discards them (case `waiting_calls_are_counted`). While this transport serves the API, calls
    /// that only other processes can take do not count, such as those of their partitions.
    ///
    /// The bus asks periodically, to restart a worker that takes none of the calls that wait.
    ///
    /// # Errors
    ///
    /// `Unsupported` without the capability `backlog`. [`Unavailable`](crate::ErrorKind::Unavailable) if
    /// the broker does not answer.
    async fn backlog(&self, api: &str) -> Result<u64> {
        let _ = api;
        Err(Error::unsupported(self.name(), "counting the calls that wait"))
    }
}
