//! What the transports over one broker share, and what each has of its own.

use std::{
    borrow::Cow,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::{sync::Notify, time::timeout};

use super::{Broker, Message, Store};
use crate::{Error, ErrorKind, Name, Result, Retry};

/// How many values are read at the same time.
const AT_ONCE: usize = 16;

/// A broker, and how many transports use it.
pub(super) struct Shared<B> {
    pub(super) broker: B,
    users: AtomicUsize,
}

/// One transport's part of a broker, which it can close.
pub(super) struct Handle<B: Broker> {
    shared: Arc<Shared<B>>,
    closing: Arc<Closing>,
    what: &'static str,
}

/// Says when a transport is closed.
#[derive(Default)]
pub(super) struct Closing {
    closed: AtomicBool,
    notify: Notify,
}

impl<B: Broker> Shared<B> {
    pub(super) fn new(broker: B) -> Arc<Self> {
        Arc::new(Self { broker, users: AtomicUsize::new(1) })
    }

    /// Adds a user, unless the last one has closed the broker.
    pub(super) fn add_user(&self) -> bool {
        let more = |users: usize| users.checked_add(1).filter(|_| users > 0);
        self.users.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    /// Waits for the broker, but not for ever.
    pub(super) async fn limit<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.limit_after(Duration::ZERO, work).await
    }

    /// As [`limit`](Self::limit), for what may take `wait` and is then to answer.
    pub(super) async fn limit_after<T>(
        &self,
        wait: Duration,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let limit = B::TIMEOUT + wait;
        let worked = timeout(limit, work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unavailable, "the broker did not answer in time")
                .with("limit", format!("{limit:?}"))
                .retry(Retry::MayDuplicate))
        });
        worked.map_err(|error| error.with("broker", self.broker.address()))
    }

    pub(super) async fn publish(&self, messages: Vec<Message>) -> Result<Vec<Name>> {
        self.limit(self.broker.publish(messages)).await
    }

    pub(super) async fn put(
        &self,
        store: &Store,
        key: &str,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> Result<()> {
        self.limit(self.broker.put(store, key, value, ttl)).await
    }

    pub(super) async fn keys(&self, store: &Store) -> Result<Vec<Name>> {
        self.limit(self.broker.keys(store)).await
    }

    /// Returns the values of these keys, in their order. Keys that no longer exist are left out.
    pub(super) async fn values(
        &self,
        store: &Store,
        keys: Vec<Name>,
    ) -> Result<Vec<(Name, Bytes)>> {
        let get = async |key: Name| {
            let value = self.limit(self.broker.get(store, &key)).await?;
            Ok(value.map(|value| (key, value)))
        };
        let found: Vec<_> = stream::iter(keys).map(get).buffered(AT_ONCE).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    pub(super) async fn delete(&self, store: &Store, key: &str) -> Result<bool> {
        self.limit(self.broker.delete(store, key)).await
    }
}

impl<B: Broker> Handle<B> {
    /// The handle of a user that was counted.
    pub(super) fn new(shared: Arc<Shared<B>>, what: &'static str) -> Self {
        Self { shared, closing: Arc::default(), what }
    }

    pub(super) fn shared(&self) -> &Arc<Shared<B>> {
        &self.shared
    }

    pub(super) fn closing(&self) -> &Arc<Closing> {
        &self.closing
    }

    /// What the transports share, unless this one is closed.
    pub(super) fn open_shared(&self) -> Result<&Arc<Shared<B>>> {
        self.closing.check(self.what).map(|()| &self.shared)
    }

    /// Works with the broker, and says what was being done if that fails.
    pub(super) async fn during<T>(
        &self,
        operation: impl Into<Cow<'static, str>>,
        work: impl AsyncFnOnce(&Shared<B>) -> Result<T>,
    ) -> Result<T> {
        let worked = match self.open_shared() {
            Ok(shared) => work(shared).await,
            Err(closed) => Err(closed),
        };
        worked.map_err(|error| error.during(operation))
    }

    pub(super) async fn open(&self) -> Result<()> {
        let connect = async |shared: &Shared<B>| shared.limit(shared.broker.connect()).await;
        self.during(format!("connecting to {}", B::NAME), connect).await
    }

    /// Closes the transport: refuses what comes later, lets `last` end, and closes the broker if no
    /// other transport uses it.
    pub(super) async fn close(&self, last: impl Future<Output = ()>) {
        let last_user = self.leave();
        last.await;
        if last_user {
            let closed = timeout(B::TIMEOUT, self.shared.broker.close()).await;
            if closed.is_err() {
                tracing::debug!(broker = B::NAME, "closing the connection took too long");
            }
        }
    }

    /// Closes the transport; returns whether it was the last one.
    fn leave(&self) -> bool {
        let first = !self.closing.closed.swap(true, Ordering::AcqRel);
        self.closing.notify.notify_waiters();
        first && self.shared.users.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl<B: Broker> Drop for Handle<B> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Closing {
    pub(super) fn check(&self, what: &'static str) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(Error::closed(what)) } else { Ok(()) }
    }

    /// Waits until the transport is closed.
    pub(super) async fn closed(&self) {
        let notified = self.notify.notified();
        if !self.closed.load(Ordering::Acquire) {
            notified.await;
        }
    }
}
