//! A transport's [`Source`] becomes the [`Subscription`] that the bus reads.
//!
//! What is hard about consuming is written once, in the driver behind [`Subscription::spawn`]:
//! credit, cancellation, coalesced settlement, redelivery with a wait, reconnecting with back-off,
//! and giving back on close what was not handled.

mod backoff;
mod connectivity;
mod delivery;
mod driver;
mod merge;
mod rejection;
mod session;
mod slots;
mod window;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

pub use backoff::Backoff;
pub use connectivity::Connectivity;
pub use delivery::{AckHandle, Delivery};
pub use merge::Merge;
pub use rejection::Rejection;
pub use session::Session;

use delivery::DriverHandle;

use crate::{Error, ErrorKind, FlowControl, Result};

/// What becomes of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Handled: never again to this listener.
    Done,
    /// Not handled: again, after a wait, to this consumer or another.
    Retry,
    /// Cannot be handled, for this reason: set aside, never again to this listener.
    Reject(Rejection),
}

/// What a transport writes to be consumed from: how to get messages, and how to settle them.
///
/// The driver calls [`fetch`](Self::fetch) and [`settle`](Self::settle) at the same time, but
/// each of them only once at a time.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// What is delivered.
    type Message: Send + Sync + 'static;
    /// What the broker needs to settle it: a stream id, a delivery tag, a partition and an offset.
    type Token: Send + Sync + 'static;

    /// Whether a delivery that was handed out and dropped comes again. `false` for calls, which
    /// run at most once: then [`Outcome::Retry`] reaches [`settle`](Self::settle) only for messages
    /// that nobody has seen.
    const REDELIVERS: bool = true;

    /// Waits for messages and takes at most `max`. May return fewer, and none at all as a sign of
    /// life. The driver never asks for more than there is room for. A message may be shared: nobody
    /// changes it.
    ///
    /// After a [temporary](Error::is_temporary) error the driver waits and asks again; any other
    /// error ends the subscription.
    ///
    /// # Cancel safety
    ///
    /// The driver drops it only when closing, and only if [`interrupt`](Self::interrupt) says
    /// `false`. Then it must lose nothing.
    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<Self::Message>, Self::Token)>>;

    /// Tells the broker what became of messages. [`Outcome::Retry`] gives a message back, so that
    /// any consumer may have it at once.
    ///
    /// A token that the broker does not know any more is no error: the message comes again, or
    /// another consumer has it. After a temporary error the driver calls again with the same
    /// tokens and those that came since, so settling twice must do no harm.
    async fn settle(&self, settled: &[(Self::Token, Outcome)]) -> Result<()>;

    /// Whether this message may have ended the processes that had it: at least two deliveries of it came
    /// to nothing. One that did may be a process that stopped, or a connection that broke. The driver holds
    /// a suspect alone, as far as it can, and calls [`begin`](Self::begin) before it is handled.
    fn is_suspect(&self, message: &Self::Message, token: &Self::Token) -> bool {
        let _ = (message, token);
        false
    }

    /// Notes, where the broker does not, that a suspect is about to be handled: one that ends its process
    /// must count up, those that were only taken along must not. Called at most once
    /// for each message that was fetched, one at a time. Returns `false` if another consumer has the
    /// message by now. After an error the message is not handled, and redelivered later.
    async fn begin(&self, token: &Self::Token) -> Result<bool> {
        let _ = token;
        Ok(true)
    }

    /// The session to which a message belongs, where the broker takes messages back with it.
    fn session(&self, token: &Self::Token) -> Option<Session> {
        let _ = token;
        None
    }

    /// How many bytes a message holds, for [`FlowControl::max_bytes`]. Zero does not count.
    fn size(&self, message: &Self::Message) -> usize {
        let _ = message;
        0
    }

    /// Tells a source whose broker pushes messages how many may be unsettled from now on. One that is
    /// asked by [`fetch`](Self::fetch) needs none of this. Must not block.
    fn resize(&self, window: usize) {
        let _ = window;
    }

    /// Tells a source that stands over another [`Subscription`] how many of its messages are
    /// [held back](AckHandle::hold_back), for its [`Room`]. Must not block.
    fn held_back(&self, messages: usize) {
        let _ = messages;
    }

    /// Asks a [`fetch`](Self::fetch) that waits to return now, with what it has or nothing. Gives
    /// `true` if it will, `false` if it may be dropped instead.
    async fn interrupt(&self) -> bool {
        false
    }

    /// Ends what the source runs. Called once, last.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// Messages as they come, each to be settled.
///
/// Dropped, it closes without waiting: what nobody has seen is given back.
pub struct Subscription<M> {
    deliveries: mpsc::Receiver<Result<Delivery<M>>>,
    stop: Option<oneshot::Sender<()>>,
    driver: tokio::task::JoinHandle<Result<()>>,
    connectivity: Connectivity,
    room: Room,
}

/// Widens what a subscription holds by what its reader holds back on behalf of others: for what stands
/// between a subscription and its consumer.
#[derive(Clone)]
pub struct Room(Arc<DriverHandle>);

impl Room {
    /// So many messages of the subscription wait for something: as many others may be taken, as far as
    /// [`FlowControl::max_in_flight`] allows. Not for a reader that uses [`AckHandle::hold_back`].
    pub fn held_back(&self, messages: usize) {
        self.0.held_back.store(messages, std::sync::atomic::Ordering::Relaxed);
        self.0.room.notify_one();
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").finish_non_exhaustive()
    }
}

impl<M: Send + Sync + 'static> Subscription<M> {
    /// Starts to consume from a source. Must be called within a tokio runtime.
    #[must_use]
    pub fn spawn<S: Source<Message = M>>(source: S, flow: FlowControl) -> Self {
        // Bounded by credit: never more in it than may be in flight, and an error at the end.
        let (sender, deliveries) = mpsc::channel(flow.max_in_flight + 1);
        let (stop, stopped) = oneshot::channel();
        let connectivity = Connectivity::default();
        let (handle, settlements) = DriverHandle::new(flow.max_in_flight);
        let room = Room(Arc::clone(&handle));
        let inbox = (handle, settlements);
        let work =
            driver::run(Arc::new(source), flow, sender, stopped, connectivity.clone(), inbox);
        Self { deliveries, stop: Some(stop), driver: tokio::spawn(work), connectivity, room }
    }

    /// What widens the subscription by what its reader holds back.
    #[must_use]
    pub fn room(&self) -> Room {
        self.room.clone()
    }

    /// Tells whether the broker answers.
    #[must_use]
    pub fn connectivity(&self) -> Connectivity {
        self.connectivity.clone()
    }

    /// The next delivery. `None` after [`stop`](Self::stop), when all has been handed out; an error
    /// if the transport cannot go on, and then `None`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call takes nothing (case `a_cancelled_next_loses_nothing`).
    pub async fn next(&mut self) -> Option<Result<Delivery<M>>> {
        self.deliveries.recv().await
    }

    /// Appends to `buffer` at most `max` deliveries that are here, or waits for the first. Gives
    /// their number: 0 where [`next`](Self::next) would give `None`.
    ///
    /// # Cancel safety
    ///
    /// A dropped call takes nothing.
    pub async fn next_batch(&mut self, buffer: &mut Vec<Result<Delivery<M>>>, max: usize) -> usize {
        self.deliveries.recv_many(buffer, max).await
    }

    /// Stops asking the broker for more. What was taken by then is still handed out.
    pub fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops, gives back what nobody has seen, waits for the deliveries that are held (at most
    /// [`FlowControl::close_timeout`]), settles, and gives back the rest.
    ///
    /// # Errors
    ///
    /// What the transport said to the last settlement or to closing. What could not be settled comes
    /// again.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it goes on in the background.
    pub async fn close(mut self) -> Result<()> {
        self.give_back();
        (&mut self.driver).await.map_err(|error| {
            Error::new(ErrorKind::Unexpected, "the consumer's task ended").because(error)
        })?
    }
}

impl<M> Subscription<M> {
    fn give_back(&mut self) {
        drop(self.stop.take());
        self.deliveries.close();
        while let Ok(delivery) = self.deliveries.try_recv() {
            if let Ok(delivery) = delivery {
                delivery.ack.unseen();
            }
        }
    }
}

impl<M> Drop for Subscription<M> {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<M> fmt::Debug for Subscription<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("waiting", &self.deliveries.len())
            .finish_non_exhaustive()
    }
}
