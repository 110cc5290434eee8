//! Sends of many callers, batched into few round trips.
//!
//! A caller that finds nothing in flight sends from its own task, without a hop. Callers that arrive
//! while a send is in flight wait in a queue. When it is answered, all that wait are sent as one batch,
//! from a task that ends when the queue is empty. A caller that is dropped does not affect the messages
//! of others.

use std::{
    collections::VecDeque,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use lightbus_core::{Error, ErrorKind, Result};
use tokio::sync::{Semaphore, oneshot};

/// The most messages in a batch.
const BATCH: usize = 256;
/// The most bytes in a batch, except for a message that is larger by itself.
const BATCH_BYTES: usize = 1 << 20;
/// The most messages in the queue. Further callers wait for room.
const QUEUE: usize = 4096;

/// Sends messages, alone or in a batch.
pub(crate) trait BatchSender: Send + Sync + 'static {
    /// A message.
    type Item: Send + 'static;
    /// The broker's answer to a message.
    type Answer: Send + 'static;

    /// Returns the approximate size of a message in bytes.
    fn size(item: &Self::Item) -> usize;

    /// Sends one message.
    fn one(&self, item: Self::Item) -> impl Future<Output = Result<Self::Answer>> + Send;

    /// Sends messages together, and returns an answer for each, in order.
    fn many(
        &self,
        items: Vec<Self::Item>,
    ) -> impl Future<Output = Vec<Result<Self::Answer>>> + Send;
}

/// Batches what callers send.
pub(crate) struct Batcher<S: BatchSender>(Arc<Inner<S>>);

struct Inner<S: BatchSender> {
    sender: S,
    state: Mutex<State<S>>,
    room: Semaphore,
}

struct State<S: BatchSender> {
    busy: bool,
    queue: VecDeque<Waiting<S>>,
}

type Waiting<S> = (<S as BatchSender>::Item, oneshot::Sender<Result<<S as BatchSender>::Answer>>);

type Batch<S> =
    (Vec<<S as BatchSender>::Item>, Vec<oneshot::Sender<Result<<S as BatchSender>::Answer>>>);
type Answered<S> = oneshot::Receiver<Result<<S as BatchSender>::Answer>>;

impl<S: BatchSender> Batcher<S> {
    pub(crate) fn new(sender: S) -> Self {
        Self(Arc::new(Inner {
            sender,
            state: Mutex::new(State { busy: false, queue: VecDeque::new() }),
            room: Semaphore::new(QUEUE),
        }))
    }

    /// Sends a message, alone or with others.
    ///
    /// If the future is dropped, the message may have been sent or not.
    pub(crate) async fn send(&self, item: S::Item) -> Result<S::Answer> {
        let inner = &self.0;
        if inner.take_turn() {
            return inner.alone(item).await;
        }
        let room = inner.room.acquire().await.map_err(|_| Error::closed("the connection"))?;
        let receiver = match inner.enqueue(item) {
            Ok(receiver) => {
                room.forget();
                receiver
            }
            // Nothing is in flight any more.
            Err(item) => {
                drop(room);
                return inner.alone(item).await;
            }
        };
        receiver.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unexpected, "the task that sends batches has ended"))
        })
    }
}

impl<S: BatchSender> Inner<S> {
    /// Sends one message, and then passes the turn on. Boxed, so that the future of callers in the
    /// queue stays small: under load, they are most.
    fn alone(self: &Arc<Self>, item: S::Item) -> BoxFuture<'_, Result<S::Answer>> {
        let turn = Turn(self);
        Box::pin(async move {
            let _turn = turn;
            self.sender.one(item).await
        })
    }

    fn take_turn(&self) -> bool {
        let mut state = self.state();
        !std::mem::replace(&mut state.busy, true)
    }

    /// Queues a message. Returns it with the turn, if nothing is in flight.
    fn enqueue(&self, item: S::Item) -> Result<Answered<S>, S::Item> {
        let mut state = self.state();
        if !state.busy {
            state.busy = true;
            return Err(item);
        }
        let (sender, receiver) = oneshot::channel();
        state.queue.push_back((item, sender));
        Ok(receiver)
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next batch. If there is none, the turn ends.
    fn next_batch(&self) -> Option<Batch<S>> {
        let mut state = self.state();
        let expected = state.queue.len().min(BATCH);
        let (mut items, mut callers) = (Vec::with_capacity(expected), Vec::with_capacity(expected));
        let (mut bytes, mut taken) = (0, 0);
        while items.len() < BATCH && bytes < BATCH_BYTES {
            let Some((item, caller)) = state.queue.pop_front() else { break };
            taken += 1;
            // A message whose caller was dropped is not sent.
            if !caller.is_closed() {
                bytes += S::size(&item);
                items.push(item);
                callers.push(caller);
            }
        }
        if items.is_empty() {
            state.busy = false;
        }
        drop(state);
        self.room.add_permits(taken);
        (!items.is_empty()).then_some((items, callers))
    }

    async fn pump(mut turn: PumpTurn<S>) {
        let inner = Arc::clone(&turn.inner);
        loop {
            // Lets tasks that are ready queue their messages first: a larger batch costs little more than
            // a small one. If none is ready, this returns at once.
            tokio::task::yield_now().await;
            let Some((items, callers)) = inner.next_batch() else { break };
            let answers = inner.sender.many(items).await;
            for (caller, answer) in callers.into_iter().zip(answers) {
                let _ = caller.send(answer);
            }
        }
        // The turn ended with the last batch, and may be another caller's already.
        turn.over = true;
    }

    /// Ends the turn with an error for all callers in the queue.
    fn give_up(&self) {
        let mut state = self.state();
        state.busy = false;
        let dropped = std::mem::take(&mut state.queue);
        drop(state);
        self.room.add_permits(dropped.len());
    }

    /// Sends the queue from a task, or ends the turn if it is empty.
    fn pass_on(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.queue.is_empty() {
                state.busy = false;
                return;
            }
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                runtime.spawn(Self::pump(PumpTurn { inner: Arc::clone(self), over: false }));
            }
            Err(_) => self.give_up(),
        }
    }
}

/// The turn of a caller that sends from its own task.
struct Turn<'a, S: BatchSender>(&'a Arc<Inner<S>>);

impl<S: BatchSender> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

/// The turn of the task. If the task is dropped with its runtime, the queue gets an error.
struct PumpTurn<S: BatchSender> {
    inner: Arc<Inner<S>>,
    over: bool,
}

impl<S: BatchSender> Drop for PumpTurn<S> {
    fn drop(&mut self) {
        if !self.over {
            self.inner.give_up();
        }
    }
}
