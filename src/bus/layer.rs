//! Tower layers around procedures and listeners.

use std::{
    error::Error as StdError,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{Error, ErrorKind, EventMessage, RemoteError, RpcMessage};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use super::{
    HandlerError,
    listen::Listen,
    listener::{Fault, Handler},
    serve::Serve,
};
use crate::contract;

type BoxError = Box<dyn StdError + Send + Sync>;

/// What a layer around procedures wraps: it takes a call and gives the encoded result.
pub type Procedures = BoxCloneSyncService<RpcMessage, Bytes, BoxError>;

/// What a layer around a listener wraps: it takes an event, and handles it.
pub type Handling = BoxCloneSyncService<Arc<EventMessage>, (), BoxError>;

impl Serve {
    /// Puts a tower layer around all procedures of the API. Of several, the one that was added last is
    /// the outermost.
    ///
    /// A layer sees the call after it has been checked, with its arguments encoded, and gives the
    /// encoded result, which is checked then. Its error is the caller's: the text of it, or the
    /// procedure's own [`RemoteError`], if that is what it passes on.
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # use std::time::Duration;
    /// # #[lightbus::api(name = "auth")] pub trait Auth { async fn check(&self) -> bool; }
    /// # struct Service; impl Auth for Service { async fn check(&self) -> bool { true } }
    /// # async fn example(bus: &Bus) -> lightbus::Result<()> {
    /// use tower::{limit::ConcurrencyLimitLayer, timeout::TimeoutLayer};
    ///
    /// bus.serve(AuthApi(Service))
    ///     .layer(ConcurrencyLimitLayer::new(10))
    ///     .layer(TimeoutLayer::new(Duration::from_secs(2)))
    ///     .await
    /// # }
    /// ```
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Procedures>,
        L::Service: Service<RpcMessage, Response = Bytes> + Clone + Send + Sync + 'static,
        <L::Service as Service<RpcMessage>>::Error: Into<BoxError>,
        <L::Service as Service<RpcMessage>>::Future: Send,
    {
        let inner = self
            .layers
            .take()
            .unwrap_or_else(|| BoxCloneSyncService::new(Bottom(Arc::clone(&self.service))));
        self.layers = Some(BoxCloneSyncService::new(layer.layer(inner).map_err(Into::into)));
        self
    }
}

impl Listen {
    /// Puts a tower layer around the handler. Of several, the one that was added last is the
    /// outermost. For handlers of single events, not of batches. It sees each try; its error is a failure of the handler, and goes by
    /// [`on_error`](Self::on_error).
    ///
    /// ```
    /// # use lightbus::prelude::*;
    /// # use std::time::Duration;
    /// # #[lightbus::api(name = "auth", events(UserRegistered))] pub trait Auth {}
    /// # #[derive(lightbus::Event)] pub struct UserRegistered { username: String }
    /// # async fn example(bus: &Bus) -> lightbus::Result<()> {
    /// bus.listen("welcome", |_: UserRegistered| async { Ok(()) })
    ///     .layer(tower::timeout::TimeoutLayer::new(Duration::from_secs(5)))
    ///     .await
    /// # }
    /// ```
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Handling>,
        L::Service: Service<Arc<EventMessage>, Response = ()> + Clone + Send + Sync + 'static,
        <L::Service as Service<Arc<EventMessage>>>::Error: Into<BoxError>,
        <L::Service as Service<Arc<EventMessage>>>::Future: Send,
    {
        let inner = BoxCloneSyncService::new(BottomHandler(Arc::clone(&self.handler)));
        let service: Handling = BoxCloneSyncService::new(layer.layer(inner).map_err(Into::into));
        if self.batches.is_some() {
            self.events = Err(Error::new(
                ErrorKind::Config,
                "a layer goes around handlers of single events, and this one takes batches",
            ));
        }
        self.handler = Arc::new(move |event| {
            let handled = service.clone().oneshot(event);
            Box::pin(async move { handled.await.map_err(fault) })
        });
        self
    }
}

/// Calls the procedures themselves.
#[derive(Clone)]
struct Bottom(Arc<dyn contract::Service>);

impl Service<RpcMessage> for Bottom {
    type Response = Bytes;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Bytes, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // How many run at once is the bus' to say, and others' around this.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: RpcMessage) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            service
                .call(&call.procedure, &call.fields)
                .await
                .map_err(|error| ProcedureError(error).into())
        })
    }
}

/// What a procedure answered instead of a result, on its way through layers.
#[derive(Debug)]
struct ProcedureError(RemoteError);

impl fmt::Display for ProcedureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for ProcedureError {}

/// Calls through the layers.
pub(super) async fn call(layers: &Procedures, call: &RpcMessage) -> Result<Bytes, RemoteError> {
    let answer = layers.clone().oneshot(call.clone()).await;
    answer.map_err(|error| match error.downcast::<ProcedureError>() {
        Ok(error) => error.0,
        Err(error) => RemoteError { message: error.to_string(), ..RemoteError::default() },
    })
}

/// Calls the handler itself.
#[derive(Clone)]
struct BottomHandler(Handler);

impl Service<Arc<EventMessage>> for BottomHandler {
    type Response = ();
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, event: Arc<EventMessage>) -> Self::Future {
        let handled = (self.0)(event);
        Box::pin(async move { handled.await.map_err(|fault| Failed(fault).into()) })
    }
}

/// Why a try failed, on its way through layers.
#[derive(Debug)]
struct Failed(Fault);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Fault::Failed(error) => error.fmt(f),
            Fault::Unreadable(error) => error.fmt(f),
        }
    }
}

impl StdError for Failed {}

fn fault(error: BoxError) -> Fault {
    match error.downcast::<Failed>() {
        Ok(failed) => failed.0,
        Err(error) => Fault::Failed(HandlerError::from_boxed(error)),
    }
}
