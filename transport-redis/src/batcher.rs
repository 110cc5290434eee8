//! Sends of many callers, collected into few round trips.
//!
//! Who comes while nothing is under way sends from its own task, without a hop. Who comes while
//! something is under way waits in a queue; when the way is free again, all that wait go out as one
//! batch, from a task that ends when the queue is empty. A caller that is dropped takes nobody
//! else's message with it.

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
/// The most messages that wait; who comes then waits for room.
const QUEUE: usize = 4096;

/// How messages are sent.
pub(crate) trait BatchSender: Send + Sync + 'static {
    /// A message.
    type Item: Send + 'static;
    /// What the broker says to a message.
    type Answer: Send + 'static;

    /// How many bytes it has, about.
    fn size(item: &Self::Item) -> usize;

    /// Sends a message by itself.
    fn one(&self, item: Self::Item) -> impl Future<Output = Result<Self::Answer>> + Send;

    /// Sends messages together, and gives an answer for each, in order.
    fn many(
        &self,
        items: Vec<Self::Item>,
    ) -> impl Future<Output = Vec<Result<Self::Answer>>> + Send;
}

/// Collects what callers send.
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
    /// Dropped, the message is sent, or is not.
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
            // The way has become free meanwhile.
            Err(item) => {
                drop(room);
                return inner.alone(item).await;
            }
        };
        receiver.await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Unexpected, "the task that sends has ended"))
        })
    }
}

impl<S: BatchSender> Inner<S> {
    /// Sends a message by itself, and then lets others have the turn. In a box, so that the future of
    /// those who wait for a batch stays small: under load they are the many.
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

    /// Puts a message into the queue; gives it back with the turn, if there is nothing to wait for.
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

    /// The next batch of those still waited for; without any, the turn ends.
    fn next_batch(&self) -> Option<Batch<S>> {
        let mut state = self.state();
        let expected = state.queue.len().min(BATCH);
        let (mut items, mut callers) = (Vec::with_capacity(expected), Vec::with_capacity(expected));
        let (mut bytes, mut taken) = (0, 0);
        while items.len() < BATCH && bytes < BATCH_BYTES {
            let Some((item, caller)) = state.queue.pop_front() else { break };
            taken += 1;
            // A caller that has gone before its message went needs none.
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
            // Those who are ready to send do so first: a larger batch costs little more than a small
            // one. Where nobody is, this takes no time.
            tokio::task::yield_now().await;
            let Some((items, callers)) = inner.next_batch() else { break };
            let answers = inner.sender.many(items).await;
            for (caller, answer) in callers.into_iter().zip(answers) {
                let _ = caller.send(answer);
            }
        }
        // The turn has ended with the last batch; it may be another's already.
        turn.over = true;
    }

    /// Ends the turn; those who wait get an error.
    fn give_up(&self) {
        let mut state = self.state();
        state.busy = false;
        let dropped = std::mem::take(&mut state.queue);
        drop(state);
        self.room.add_permits(dropped.len());
    }

    /// Lets those who wait have their turn.
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

/// The turn of one who sends directly.
struct Turn<'a, S: BatchSender>(&'a Arc<Inner<S>>);

impl<S: BatchSender> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        self.0.pass_on();
    }
}

/// The turn of the task. If it ends in the middle, with its runtime, nobody waits for ever.
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
