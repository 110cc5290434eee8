//! A broker's client that the transports of a process share, and the part of it that each can close.
//!
//! A transport author implements [`SharedClient`] once per broker. Each of the four transports holds a
//! [`Handle`], which answers `Closed` after [`close`](Handle::close), ends what waits through
//! [`Closing`], and [releases](SharedClient::release) the connections when the last transport that used
//! them is closed. [`impl_transport!`](crate::impl_transport) writes
//! [`Transport`](crate::Transport) over such a handle.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{Error, Result};

/// What the transports of a process share to reach one broker.
pub trait SharedClient: fmt::Debug + Send + Sync + 'static {
    /// The name under which the configuration selects the transport, such as `redis`.
    const NAME: &'static str;

    /// The name of the broker in errors, such as `Redis`.
    const BROKER: &'static str;

    /// Returns the address of the broker, without secrets: `127.0.0.1:6379/0`.
    fn address(&self) -> String;

    /// Connects if necessary, and checks that the broker answers.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable) within the transport's connection timeout.
    fn check(&self) -> impl Future<Output = Result<()>> + Send;

    /// The counter of the client's users, which [`User`] keeps.
    fn users(&self) -> &Users;

    /// Drops the connections. Called when the last user is gone; a later user connects again.
    fn release(&self);
}

/// Counts the users of a [`SharedClient`].
#[derive(Debug, Default)]
pub struct Users(AtomicUsize);

/// One user of a client. The client is released when the last one is dropped.
#[derive(Debug)]
pub struct User<C: SharedClient>(Arc<C>);

impl<C: SharedClient> User<C> {
    /// Adds a user.
    #[must_use]
    pub fn new(client: Arc<C>) -> Self {
        client.users().0.fetch_add(1, Ordering::AcqRel);
        Self(client)
    }

    /// Adds a user to those that the client has. Returns `None` if it has none: for a client that does
    /// not connect again once it is released.
    #[must_use]
    pub fn join(client: Arc<C>) -> Option<Self> {
        let more = |users: usize| users.checked_add(1).filter(|_| users > 0);
        let joined = client.users().0.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        joined.is_ok().then(|| Self(client))
    }
}

impl<C: SharedClient> Drop for User<C> {
    fn drop(&mut self) {
        if self.0.users().0.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.release();
        }
    }
}

/// Whether a transport is closed, and how its tasks learn that it is.
#[derive(Debug, Default)]
pub struct Closing {
    closed: AtomicBool,
    notify: Notify,
}

impl Closing {
    /// Returns whether the transport is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Fails if the transport is closed; errors call it `what`.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed).
    pub fn check(&self, what: &'static str) -> Result<()> {
        if self.is_closed() { Err(Error::closed(what)) } else { Ok(()) }
    }

    /// Waits until the transport is closed; returns at once if it is.
    ///
    /// # Cancel safety
    ///
    /// May be dropped.
    pub async fn closed(&self) {
        // Created before the flag is read: it hears a `close` in between.
        let notified = self.notify.notified();
        if !self.is_closed() {
            notified.await;
        }
    }

    /// Closes, and wakes all that wait. Returns whether it was open.
    pub fn close(&self) -> bool {
        let first = !self.closed.swap(true, Ordering::SeqCst);
        self.notify.notify_waiters();
        first
    }
}

/// A transport's own part of a client, which it can close.
#[derive(Debug)]
pub struct Handle<C: SharedClient> {
    what: &'static str,
    client: Arc<C>,
    user: Mutex<Option<User<C>>>,
    closing: Arc<Closing>,
}

impl<C: SharedClient> Handle<C> {
    /// A handle for a transport that errors call `what`: "the event transport".
    #[must_use]
    pub fn new(what: &'static str, client: Arc<C>) -> Self {
        Self::of_user(what, User::new(client))
    }

    /// A handle for a user that is counted already, for a transport that errors call `what`.
    #[must_use]
    pub fn of_user(what: &'static str, user: User<C>) -> Self {
        let client = Arc::clone(&user.0);
        Self { what, user: Mutex::new(Some(user)), client, closing: Arc::default() }
    }

    /// Returns the client.
    ///
    /// # Errors
    ///
    /// [`Closed`](crate::ErrorKind::Closed) if the transport is closed.
    pub fn client(&self) -> Result<&Arc<C>> {
        self.closing.check(self.what).map(|()| &self.client)
    }

    /// Returns the client, also after closing.
    pub(crate) fn closed_client(&self) -> &Arc<C> {
        &self.client
    }

    /// Returns the address of the broker, also after closing.
    #[must_use]
    pub fn address(&self) -> String {
        self.client.address()
    }

    /// Returns what tells the transport's tasks that it is closed.
    #[must_use]
    pub fn closing(&self) -> &Arc<Closing> {
        &self.closing
    }

    /// Connects, and checks that the broker answers.
    ///
    /// # Errors
    ///
    /// As [`client`](Self::client) and [`SharedClient::check`].
    pub async fn open(&self) -> Result<()> {
        let checked = match self.client() {
            Ok(client) => client.check().await,
            Err(error) => Err(error),
        };
        checked.map_err(|error| error.during(format!("connecting to {}", C::BROKER)))
    }

    /// Closes the transport: later operations fail with [`Closed`](crate::ErrorKind::Closed).
    pub fn close(&self) {
        self.closing.close();
        drop(self.user.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Implements [`Transport`](crate::Transport) and `Debug` for a type with a field
/// `handle: Handle<C>`.
///
/// All three are closures over the transport that capture nothing. `inspect` may be left out, as
/// [`Transport::inspect`](crate::Transport::inspect) may. `on_close` may be left out, too; it runs after
/// the handle is closed, on every `close`, and does not wait.
///
/// ```ignore
/// lightbus_core::impl_transport!(PigeonEventTransport {
///     capabilities: |transport| Capabilities::new().durable(transport.config.durable),
///     inspect: |transport| transport,
///     on_close: |transport| transport.publisher.close(),
/// });
/// ```
#[macro_export]
macro_rules! impl_transport {
    ($type:ty {
        capabilities: $capabilities:expr
        $(, inspect: $inspect:expr)?
        $(, on_close: $on_close:expr)?
        $(,)?
    }) => {
        #[$crate::__private::async_trait]
        impl $crate::Transport for $type {
            fn name(&self) -> &'static str {
                fn name<C: $crate::SharedClient>(_: &$crate::Handle<C>) -> &'static str {
                    C::NAME
                }
                name(&self.handle)
            }

            fn broker(&self) -> ::std::string::String {
                self.handle.address()
            }

            fn capabilities(&self) -> $crate::Capabilities {
                let capabilities: fn(&Self) -> $crate::Capabilities = $capabilities;
                capabilities(self)
            }

            $(fn inspect(&self) -> ::std::option::Option<&dyn $crate::transport::Inspect> {
                let inspect: fn(&Self) -> &dyn $crate::transport::Inspect = $inspect;
                Some(inspect(self))
            })?

            async fn open(&self) -> $crate::Result<()> {
                self.handle.open().await
            }

            async fn close(&self) -> $crate::Result<()> {
                self.handle.close();
                $({
                    let on_close: fn(&Self) = $on_close;
                    on_close(self);
                })?
                Ok(())
            }
        }

        impl ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.debug_struct(stringify!($type))
                    .field("broker", &self.handle.address())
                    .finish_non_exhaustive()
            }
        }
    };
}
