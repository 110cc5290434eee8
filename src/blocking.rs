//! The bus for code without async: scripts, threads, web frameworks that block.
//!
//! A [`Bus`] brings its own runtime, on threads of its own. Whatever thread asks, waiting never starves
//! it: calls may be made from plain threads, from `spawn_blocking`, and, though async code has better
//! ways, from within another runtime.
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
//!     // … or with them: whatever is awaited elsewhere is waited for here.
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
    BusBuilder, Fired, HandlerResult, Health,
    bus::FromEvent,
    contract::{Contract, Event, Service},
};

/// The threads of the runtime that a blocking bus brings.
const THREADS: usize = 2;

/// A process' place on the bus, each operation of which waits for its end. Cheap to clone; all clones
/// are the same place.
///
/// When the last clone is dropped, what it serves and listens to is cut off, as in a crash:
/// [`close`](Self::close) and [`run`](Self::run) end it in order.
#[derive(Clone)]
pub struct Bus {
    bus: crate::Bus,
    runtime: Arc<Threads>,
}

/// A runtime that may be dropped anywhere.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("lightbus")
            .enable_all()
            .build();
        runtime.map(|runtime| Self(Some(runtime))).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "threads for the bus cannot be started")
                .because(error)
        })
    }

    fn handle(&self) -> &Handle {
        match &self.0 {
            Some(runtime) => runtime.handle(),
            None => unreachable!("it is taken when it is dropped"),
        }
    }

    /// Waits for a future that runs on these threads, wherever this one is from.
    fn wait<F>(&self, future: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.handle().spawn(async move {
            // Nobody waits for it any more only if the process ends.
            let _ = sender.send(AssertUnwindSafe(future).catch_unwind().await);
        });
        let waits = || match receiver.recv() {
            Ok(Ok(output)) => output,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => {
                unreachable!("the runtime lives as long as this, and the task sends in any case")
            }
        };
        match Handle::try_current() {
            // The other tasks of that thread go on elsewhere.
            Ok(other) if other.runtime_flavor() == RuntimeFlavor::MultiThread => {
                block_in_place(waits)
            }
            _ => waits(),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Waiting for it is not allowed in a runtime, and this may be dropped in one.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Bus {
    /// As [`crate::Bus::from_env`].
    ///
    /// # Errors
    ///
    /// As there, and [`Unexpected`](ErrorKind::Unexpected) if no thread can be started.
    pub fn from_env() -> Result<Self> {
        Self::connect(crate::Bus::builder())
    }

    /// As [`crate::Bus::in_memory`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn in_memory() -> Result<Self> {
        Self::connect(crate::Bus::builder().config(crate::config::Config::default()))
    }

    /// As [`BusBuilder::connect`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn connect(builder: BusBuilder) -> Result<Self> {
        let runtime = Arc::new(Threads::start()?);
        let bus = runtime.wait(builder.connect())?;
        Ok(Self { bus, runtime })
    }

    /// The same place on the bus, for typed clients and for all that has no blocking form here: what
    /// it gives is for [`wait`](Self::wait).
    #[must_use]
    pub fn as_async(&self) -> &crate::Bus {
        &self.bus
    }

    /// Waits for anything that is awaited elsewhere: a call by a typed client, a listener that is
    /// about to begin. It runs on the threads of this bus. If it panics, so does this.
    ///
    /// In async code on a runtime with several threads, the other tasks of this thread go on
    /// elsewhere. On a runtime with one thread they wait: the bus goes on, having threads of its own,
    /// but what waits for one of those tasks waits for its timeout. Use [`crate::Bus`] there.
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

    /// As [`crate::Bus::call`].
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

    /// As [`crate::Bus::fire`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn fire<E: Event>(&self, event: E) -> Result<Fired> {
        let bus = self.bus.clone();
        self.wait(async move { bus.fire(event).await })
    }

    /// As [`crate::Bus::fire_event`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn fire_event(&self, event: &str, args: impl Into<Args>) -> Result<Fired> {
        let (bus, event, args) = (self.bus.clone(), event.to_owned(), args.into());
        self.wait(async move { bus.fire_event(&event, args).await })
    }

    /// As [`crate::Bus::listen`], with a handler that may block: it runs on a thread for that.
    /// For more than the name and the handler, see [`wait`](Self::wait).
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

    /// As [`crate::Bus::serve`]. Procedures are async; one that blocks does so within
    /// [`tokio::task::spawn_blocking`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn serve(&self, service: impl Service) -> Result<()> {
        self.wait(self.bus.serve(service))
    }

    /// As [`crate::Bus::register`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn register(&self, contract: &'static Contract) -> Result<()> {
        let bus = self.bus.clone();
        self.wait(async move { bus.register(contract).await })
    }

    /// As [`crate::Bus::run`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn run(self) -> Result<()> {
        let bus = self.bus.clone();
        self.wait(bus.run())
    }

    /// As [`crate::Bus::shut_down`].
    pub fn shut_down(&self) {
        self.bus.shut_down();
    }

    /// As [`crate::Bus::close`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn close(&self) -> Result<()> {
        let bus = self.bus.clone();
        self.wait(async move { bus.close().await })
    }

    /// As [`crate::Bus::health`].
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

/// Makes a handler that may block one for [`crate::Bus::listen`]: it runs on a thread for that, of
/// which a listener has at most as many as it handles events at once.
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
