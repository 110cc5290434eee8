//! Tower layers around procedures.

use std::{
    error::Error as StdError,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use lightbus_core::{RemoteError, RpcMessage};
use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use crate::contract;

pub(super) type BoxError = Box<dyn StdError + Send + Sync>;

/// The service that a layer around procedures wraps: takes a call, returns the encoded result.
pub type Procedures = BoxCloneSyncService<RpcMessage, Bytes, BoxError>;

/// Adds a layer around the existing ones, or around the procedures if there are none.
pub(super) fn around<L>(
    layers: Option<Procedures>,
    service: &Arc<dyn contract::Service>,
    layer: L,
) -> Procedures
where
    L: Layer<Procedures>,
    L::Service: Service<RpcMessage, Response = Bytes> + Clone + Send + Sync + 'static,
    <L::Service as Service<RpcMessage>>::Error: Into<BoxError>,
    <L::Service as Service<RpcMessage>>::Future: Send,
{
    let inner = layers.unwrap_or_else(|| BoxCloneSyncService::new(Bottom(Arc::clone(service))));
    BoxCloneSyncService::new(layer.layer(inner).map_err(Into::into))
}

/// Calls the procedures themselves.
#[derive(Clone)]
struct Bottom(Arc<dyn contract::Service>);

impl Service<RpcMessage> for Bottom {
    type Response = Bytes;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Bytes, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // Concurrency is limited by the bus, and by the layers around this.
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

/// The error that a procedure returned, on its way through the layers.
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
