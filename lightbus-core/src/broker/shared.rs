//! What the transports over one broker share, and what each has of its own: a
//! [`SharedClient`] over a [`Broker`], whose connection is closed by whoever closes the last transport.

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::{Broker, Message, Store};
use crate::{Closing, Error, ErrorKind, Name, Result, Retry, SharedClient, User, Users};

/// How many values are read at the same time.
const AT_ONCE: usize = 16;

/// A broker that transports share.
pub(super) struct Shared<B> {
    pub(super) broker: B,
    users: Users,
    /// The last user is gone, and the broker is not closed yet.
    to_close: AtomicBool,
}

/// One transport's part of a broker, which it can close. Dropped, it is closed as well, but for the
/// broker's connection.
pub(super) struct Handle<B: Broker>(crate::Handle<Shared<B>>);

impl<B: Broker> SharedClient for Shared<B> {
    const NAME: &'static str = B::NAME;
    const BROKER: &'static str = B::NAME;

    fn address(&self) -> String {
        self.broker.address()
    }

    async fn check(&self) -> Result<()> {
        self.limit(self.broker.connect()).await
    }

    fn users(&self) -> &Users {
        &self.users
    }

    fn release(&self) {
        self.to_close.store(true, Ordering::SeqCst);
    }
}

impl<B: Broker> fmt::Debug for Shared<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("broker", &self.broker.address()).finish_non_exhaustive()
    }
}

impl<B: Broker> Shared<B> {
    pub(super) fn new(broker: B) -> Arc<Self> {
        Arc::new(Self { broker, users: Users::default(), to_close: AtomicBool::new(false) })
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
        let limit = B::TIMEOUT.saturating_add(wait);
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
    /// A handle of a transport that errors call `what`.
    pub(super) fn new(user: User<Shared<B>>, what: &'static str) -> Self {
        Self(crate::Handle::of_user(what, user))
    }

    /// What the transports share, also after closing.
    pub(super) fn shared(&self) -> &Arc<Shared<B>> {
        self.0.closed_client()
    }

    pub(super) fn closing(&self) -> &Arc<Closing> {
        self.0.closing()
    }

    /// What the transports share, unless this one is closed.
    pub(super) fn open_shared(&self) -> Result<&Arc<Shared<B>>> {
        self.0.client()
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
        self.0.open().await
    }

    /// Closes the transport: refuses what comes later, lets `last` end, and closes the broker if no
    /// other transport uses it.
    pub(super) async fn close(&self, last: impl Future<Output = ()>) {
        self.0.close();
        last.await;
        if self.shared().to_close.swap(false, Ordering::SeqCst) {
            let closed = timeout(B::TIMEOUT, self.shared().broker.close()).await;
            if closed.is_err() {
                tracing::debug!(broker = B::NAME, "closing the connection took too long");
            }
        }
    }
}

impl<B: Broker> Drop for Handle<B> {
    fn drop(&mut self) {
        self.0.close();
    }
}
