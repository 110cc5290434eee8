//! A subscription over a subscription: messages pass, and somebody sees or changes them on the way.

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

/// What is done with the messages of a subscription.
pub(super) trait Interceptor<M>: Send + Sync + 'static {
    /// The intercept is about to ask for messages. A temporary error is a broker that is away.
    fn fetching(&self) -> Result<()> {
        Ok(())
    }

    /// A message came: it is handed on as this gives it.
    fn arrived(&self, message: Arc<M>) -> Arc<M>;

    /// The delivery of a message, as it came, ended. Not told of what came to nothing because the
    /// subscription below has ended.
    fn settled(&self, _message: &M, _outcome: &Outcome) {}
}

/// Hands on the events of a subscription.
pub(super) fn events(
    inner: Subscription<EventMessage>,
    flow: FlowControl,
    pass: impl Interceptor<EventMessage>,
) -> Subscription<EventMessage> {
    Subscription::spawn(Intercepted::<_, _, true>::new(inner, pass, None), flow.fixed())
}

/// Hands on the calls of a subscription. Those that nobody has seen when it ends are called again by
/// `rpc`: a call that was handed out cannot be given back.
pub(super) fn calls(
    inner: Subscription<RpcMessage>,
    rpc: Arc<dyn RpcTransport>,
    flow: FlowControl,
    pass: impl Interceptor<RpcMessage>,
) -> Subscription<RpcMessage> {
    Subscription::spawn(Intercepted::<_, _, false>::new(inner, pass, Some(rpc)), flow)
}

/// A message that can be relayed.
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
        // No waiting from here on: dropped, it has taken nothing.
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
                // What came before it is handed on first. After an error nothing comes any more.
                Err(_) => self.ended.store(true, Ordering::Release),
            }
        }
        Ok(messages)
    }

    async fn settle(&self, settled: &[(Arc<InnerDelivery<M>>, Outcome)]) -> Result<()> {
        // At once, so that the subscription below can settle them together.
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
