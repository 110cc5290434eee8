//! The bus for code without async: scripts, threads, blocking web frameworks.
//!
//! A [`Bus`] has its own runtime with its own threads, so a blocked caller never blocks the bus. It may
//! be used from plain threads, from `spawn_blocking`, and from within another runtime, although async
//! code is better served by [`crate::Bus`].
//!
//! ```
//! use lightbus::{args, blocking};
//! # #[lightbus::api(name = "auth")] pub trait Auth { async fn check_password(&self, username: String, password: String) -> bool; }
//! # struct Service;
//! # impl Auth for Service { async fn check_password(&self, username: String, password: String) -> bool { username == "admin" && password == "secret" } }
//!
//! fn main() -> lightbus::Result<()> {
//!     let bus = blocking::Bus::from_env()?;
//!     # bus.serve(AuthApi(Service))?;
//!     // Without types …
//!     let valid: bool = bus.call("auth.check_password", args! { username: "admin", password: "secret" })?;
//!     // … or with them: `wait` blocks on anything that can be awaited.
//!     let auth = AuthClient::new(bus.as_async());
//!     assert_eq!(bus.wait(auth.check_password("admin", "secret"))?, valid);
//!     bus.close()
//! }
//! ```

use std::{
    fmt,
    future::IntoFuture,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, mpsc},
};

use futures_util::{FutureExt, future::BoxFuture};
use lightbus_core::{Args, Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use tokio::{
    runtime::{Builder, Handle, Runtime, RuntimeFlavor},
    task::{block_in_place, spawn_blocking},
};

use crate::{
    BusBuilder, Fired, FromEvent, HandlerResult,
    contract::{Contract, Event, Service},
    health::Health,
};

/// The number of threads of the runtime.
const THREADS: usize = 2;

/// A process's connection to the bus, whose operations block. Cheap to clone; all clones share the
/// connection.
///
/// When the last clone is dropped, handlers are dropped as in a crash. [`close`](Self::close) and
/// [`run`](Self::run) shut down in order.
#[derive(Clone)]
pub struct Bus {
    bus: crate::Bus,
    runtime: Arc<Threads>,
}

/// A runtime that may be dropped anywhere, also within another runtime.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("lightbus")
            .enable_all()
            .build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "cannot start threads for the bus").because(error)
        })
    }

    fn handle(&self) -> &Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("only taken by drop"),
        }
    }

    /// Runs a future on these threads and blocks until it has finished.
    fn wait<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.handle().spawn(async move {
            // Fails only while the process exits.
            let _ = sender.send(AssertUnwindSafe(future).catch_unwind().await);
        });
        let waits = || match receiver.recv() {
            Ok(Ok(output)) => output,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => {
                unreachable!("the runtime lives as long as `self`, and the task always sends")
            }
        };
        match Handle::try_current() {
            // Other tasks of this thread move to another one.
            Ok(other) if other.runtime_flavor() == RuntimeFlavor::MultiThread => {
                block_in_place(waits)
            }
            _ => waits(),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Blocking on shutdown panics within a runtime, and this may be dropped in one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bus {
    /// See [`crate::Bus::from_env`].
    ///
    /// # Errors
    ///
    /// As there, and [`Unexpected`](ErrorKind::Unexpected) if no thread can be started.
    pub fn from_env() -> Result<Self> {
        Self::connect(crate::Bus::builder())
    }

    /// See [`crate::Bus::in_memory`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn in_memory() -> Result<Self> {
        Self::connect(crate::Bus::builder().config(crate::config::Config::default()))
    }

    /// See [`BusBuilder::connect`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn connect(builder: BusBuilder) -> Result<Self> {
        let runtime = Arc::new(Threads::start()?);
        let bus = runtime.wait(builder.connect())?;
        Ok(Self { bus, runtime })
    }

    /// Returns the async bus of the same connection, for typed clients and everything that has no
    /// blocking form here. Pass its futures to [`wait`](Self::wait).
    #[must_use]
    pub fn as_async(&self) -> &crate::Bus {
        &self.bus
    }

    /// Blocks until a future has finished, such as a call of a typed client, or a listener to be
    /// started. The future runs on the threads of this bus. If it panics, so does this method.
    ///
    /// Within a multi-threaded runtime, other tasks of the calling thread move to another thread. Within
    /// a single-threaded runtime they are blocked: the bus itself continues, but a future that depends on
    /// such a task can only time out. Use [`crate::Bus`] there.
    ///
    /// ```
    /// # use lightbus::{blocking, prelude::*};
    /// # #[lightbus::api(name = "auth", events(UserRegistered))] pub trait Auth {}
    /// # #[derive(lightbus::Event)] pub struct UserRegistered { username: String }
    /// # fn example(bus: &blocking::Bus) -> lightbus::Result<()> {
    /// let greet = blocking::handler(|event: UserRegistered| {
    ///     println!("Welcome, {}!", event.username);
    ///     Ok(())
    /// });
    /// bus.wait(bus.as_async().listen("welcome", greet).concurrency(4))
    /// # }
    /// ```
    pub fn wait<F>(&self, future: F) -> F::Output
    where
        F: IntoFuture,
        F::IntoFuture: Send + 'static,
        F::Output: Send + 'static,
    {
        self.runtime.wait(future.into_future())
    }

    /// See [`crate::Bus::call`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn call<T>(&self, procedure: &str, args: impl Into<Args>) -> Result<T>
    where
        T: DeserializeOwned + Send + 'static,
    {
        self.wait(self.bus.call::<T>(procedure, args))
    }

    /// See [`crate::Bus::fire`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn fire<E: Event>(&self, event: E) -> Result<Fired> {
        let bus = self.bus.clone();
        self.wait(async move { bus.fire(event).await })
    }

    /// See [`crate::Bus::fire_event`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn fire_event(&self, event: &str, args: impl Into<Args>) -> Result<Fired> {
        let (bus, event, args) = (self.bus.clone(), event.to_owned(), args.into());
        self.wait(async move { bus.fire_event(&event, args).await })
    }

    /// See [`crate::Bus::listen`]. The handler may block: it runs on a thread for blocking code. To set
    /// more than the name and the handler, see [`wait`](Self::wait).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn listen<E, F>(&self, name: &str, handler: F) -> Result<()>
    where
        E: FromEvent + 'static,
        F: Fn(E) -> HandlerResult + Send + Sync + 'static,
    {
        self.wait(self.bus.listen(name, self::handler(handler)))
    }

    /// See [`crate::Bus::serve`]. Procedures are async; code that blocks belongs into
    /// [`tokio::task::spawn_blocking`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn serve(&self, service: impl Service) -> Result<()> {
        self.wait(self.bus.serve(service))
    }

    /// See [`crate::Bus::register`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&self, contract: &'static Contract) -> Result<()> {
        let bus = self.bus.clone();
        self.wait(async move { bus.register(contract).await })
    }

    /// See [`crate::Bus::run`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn run(self) -> Result<()> {
        let bus = self.bus.clone();
        self.wait(bus.run())
    }

    /// See [`crate::Bus::shut_down`].
    pub fn shut_down(&self) {
        self.bus.shut_down();
    }

    /// See [`crate::Bus::close`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn close(&self) -> Result<()> {
        let bus = self.bus.clone();
        self.wait(async move { bus.close().await })
    }

    /// See [`crate::Bus::health`].
    #[must_use]
    pub fn health(&self) -> Health {
        self.bus.health()
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bus.fmt(f)
    }
}

/// Converts a blocking handler into one for [`crate::Bus::listen`]. It runs on tokio's threads for
/// blocking code; a listener uses at most as many as its concurrency.
pub fn handler<E, F>(
    handler: F,
) -> impl Fn(E) -> BoxFuture<'static, HandlerResult> + Send + Sync + 'static
where
    E: Send + 'static,
    F: Fn(E) -> HandlerResult + Send + Sync + 'static,
{
    let handler = Arc::new(handler);
    move |event| {
        let handler = Arc::clone(&handler);
        Box::pin(async move {
            match spawn_blocking(move || handler(event)).await {
                Ok(handled) => handled,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => resume_unwind(panic),
                    Err(error) => Err(error.into()),
                },
            }
        })
    }
}
