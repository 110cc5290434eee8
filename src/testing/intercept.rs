//! Intercepting a subscription: messages pass through an [`Interceptor`], which sees or changes them.
//!
//! An intercepted subscription is a [`Source`] that takes from the subscription below and holds its
//! acknowledgement handles as tokens. The driver above has credit of its own, but settlement and
//! redelivery are decided below; this file only passes them on. Calls cannot be returned to a broker
//! once they have been delivered, so one that no layer above has seen is sent again.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use futures_util::future::join_all;
use lightbus_core::{
    AckHandle, Delivery, Error, EventMessage, FlowControl, Outcome, Result, Room, RpcMessage,
    Source, Subscription, transport::RpcTransport,
};
use tokio::sync::Mutex as AsyncMutex;

/// Sees or changes the messages of a subscription.
pub(super) trait Interceptor<M>: Send + Sync + 'static {
    /// Called before messages are fetched. A temporary error simulates an unavailable broker.
    fn fetching(&self) -> Result<()> {
        Ok(())
    }

    /// Called with each message. The returned message is passed on.
    fn arrived(&self, message: Arc<M>) -> Arc<M>;

    /// Called when a message, as it arrived, has been settled. Not called if the subscription below has
    /// ended before.
    fn settled(&self, _message: &M, _outcome: &Outcome) {}
}

/// Intercepts a subscription to events.
pub(super) fn events(
    inner: Subscription<EventMessage>,
    flow: FlowControl,
    pass: impl Interceptor<EventMessage>,
) -> Subscription<EventMessage> {
    Subscription::spawn(Intercepted::<_, _, true>::new(inner, pass, None), flow.fixed())
}

/// Intercepts a subscription to calls. Calls that have not been handed out when it ends are sent again
/// through `rpc`, because a delivered call cannot be returned.
pub(super) fn calls(
    inner: Subscription<RpcMessage>,
    rpc: Arc<dyn RpcTransport>,
    flow: FlowControl,
    pass: impl Interceptor<RpcMessage>,
) -> Subscription<RpcMessage> {
    Subscription::spawn(Intercepted::<_, _, false>::new(inner, pass, Some(rpc)), flow)
}

/// A message that can be intercepted.
pub(super) trait Message: Send + Sync + 'static {
    fn as_call(&self) -> Option<&RpcMessage> {
        None
    }
}

impl Message for EventMessage {}

impl Message for RpcMessage {
    fn as_call(&self) -> Option<&RpcMessage> {
        Some(self)
    }
}

struct Intercepted<M, P, const REDELIVERS: bool> {
    inner: AsyncMutex<Option<Subscription<M>>>,
    pass: P,
    put_back: Option<Arc<dyn RpcTransport>>,
    ended: AtomicBool,
    room: Room,
}

/// A delivery of the subscription below.
struct InnerDelivery<M> {
    message: Arc<M>,
    ack: Mutex<Option<AckHandle>>,
    suspect: bool,
}

impl<M> InnerDelivery<M> {
    async fn begin(&self) -> bool {
        let ack = self.ack.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut ack) = ack else { return false };
        let begun = ack.begin().await;
        *self.ack.lock().unwrap_or_else(PoisonError::into_inner) = Some(ack);
        begun
    }
}

impl<M: Message, P: Interceptor<M>, const REDELIVERS: bool> Intercepted<M, P, REDELIVERS> {
    fn new(inner: Subscription<M>, pass: P, put_back: Option<Arc<dyn RpcTransport>>) -> Self {
        let room = inner.room();
        let inner = AsyncMutex::new(Some(inner));
        Self { inner, pass, put_back, ended: AtomicBool::new(false), room }
    }

    async fn settle_one(&self, held: &InnerDelivery<M>, outcome: &Outcome) -> Result<()> {
        let ack = held.ack.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Settling twice does no harm.
        let Some(ack) = ack else { return Ok(()) };
        if let (Outcome::Retry, Some(rpc), Some(call)) =
            (outcome, &self.put_back, held.message.as_call())
        {
            rpc.call(call.clone()).await?;
        }
        if ack.settle(outcome.clone()).await.is_ok() {
            self.pass.settled(&held.message, outcome);
        }
        Ok(())
    }
}

#[async_trait]
impl<M: Message, P: Interceptor<M>, const REDELIVERS: bool> Source
    for Intercepted<M, P, REDELIVERS>
{
    type Message = M;
    type Token = Arc<InnerDelivery<M>>;

    const REDELIVERS: bool = REDELIVERS;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<M>, Arc<InnerDelivery<M>>)>> {
        self.pass.fetching()?;
        let mut inner = self.inner.lock().await;
        let subscription = inner.as_mut().filter(|_| !self.ended.load(Ordering::Acquire));
        let Some(subscription) = subscription else {
            return Err(Error::closed("the subscription"));
        };
        let mut buffer = Vec::new();
        if subscription.next_batch(&mut buffer, max).await == 0 {
            return Err(Error::closed("the subscription"));
        }
        // No await from here on: a dropped fetch loses nothing.
        let mut messages = Vec::with_capacity(buffer.len());
        for delivery in buffer {
            match delivery {
                Ok(Delivery { message, ack, .. }) => {
                    let arrived = self.pass.arrived(Arc::clone(&message));
                    let suspect = ack.is_suspect();
                    let ack = Mutex::new(Some(ack));
                    messages.push((arrived, Arc::new(InnerDelivery { message, ack, suspect })));
                }
                Err(error) if messages.is_empty() => return Err(error),
                // Messages before the error are passed on first. An error ends the subscription.
                Err(_) => self.ended.store(true, Ordering::Release),
            }
        }
        Ok(messages)
    }

    async fn settle(&self, settled: &[(Arc<InnerDelivery<M>>, Outcome)]) -> Result<()> {
        // Concurrently, so that the subscription below can settle them together.
        let all = settled.iter().map(|(held, outcome)| self.settle_one(held, outcome));
        join_all(all).await.into_iter().collect()
    }

    fn is_suspect(&self, _: &M, held: &Arc<InnerDelivery<M>>) -> bool {
        held.suspect
    }

    async fn begin(&self, held: &Arc<InnerDelivery<M>>) -> Result<bool> {
        Ok(held.begin().await)
    }

    fn held_back(&self, messages: usize) {
        self.room.held_back(messages);
    }

    async fn close(&self) -> Result<()> {
        match self.inner.lock().await.take() {
            Some(subscription) => subscription.close().await,
            None => Ok(()),
        }
    }
}
