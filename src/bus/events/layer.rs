//! Tower layers around handlers of events.

use std::{
    error::Error as StdError,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use lightbus_core::EventMessage;
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use super::handler::{Fault, Handler};

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// The service that a layer around a listener wraps: takes an event and handles it.
pub type Handling = BoxCloneSyncService<Arc<EventMessage>, (), BoxError>;

/// Wraps a handler in a layer.
pub(super) fn around<L>(handler: &Handler, layer: L) -> Handler
where
    L: Layer<Handling>,
    L::Service: Service<Arc<EventMessage>, Response = ()> + Clone + Send + Sync + 'static,
    <L::Service as Service<Arc<EventMessage>>>::Error: Into<BoxError>,
    <L::Service as Service<Arc<EventMessage>>>::Future: Send,
{
    let inner = BoxCloneSyncService::new(BottomHandler(Arc::clone(handler)));
    let service: Handling = BoxCloneSyncService::new(layer.layer(inner).map_err(Into::into));
    Arc::new(move |event| {
        let handled = service.clone().oneshot(event);
        Box::pin(async move { handled.await.map_err(fault) })
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

/// Why an attempt failed, on its way through the layers.
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
        Err(error) => Fault::Failed(error.into()),
    }
}
