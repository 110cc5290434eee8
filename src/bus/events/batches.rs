//! The handler of a listener in batches, with its type erased, and the limits of a batch.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use lightbus_core::{Error, EventMessage};

use super::{
    handler::{Fault, Handler},
    received::FromEvent,
};
use crate::bus::shared::{HandlerError, HandlerResult};

/// The default size of a batch, and how long it waits to be full.
const MOST: usize = 100;
const WAIT: Duration = Duration::from_millis(100);
/// The upper limit for the size of a batch.
const LARGEST: usize = 10_000;

pub(super) type BatchHandler =
    Arc<dyn Fn(&[Arc<EventMessage>]) -> BoxFuture<'static, Result<(), BatchFault>> + Send + Sync>;

/// Why an attempt at a batch failed.
pub(super) enum BatchFault {
    Failed(HandlerError),
    /// These cannot be decoded, by index. The handler was not called.
    Unreadable(Vec<(usize, Error)>),
}

/// The settings and the handler of a listener in batches.
#[derive(Clone)]
pub(super) struct Batches {
    pub(super) most: usize,
    pub(super) wait: Duration,
    pub(super) handler: BatchHandler,
}

impl Batches {
    pub(super) fn new<E, F, Fut>(handler: F) -> Self
    where
        E: FromEvent,
        F: Fn(Vec<E>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        let handler = move |messages: &[Arc<EventMessage>]| -> BoxFuture<'static, _> {
            let mut events = Vec::with_capacity(messages.len());
            let mut unreadable = Vec::new();
            for (index, message) in messages.iter().enumerate() {
                match E::from_message(message) {
                    Ok(event) => events.push(event),
                    Err(error) => unreadable.push((index, error)),
                }
            }
            if !unreadable.is_empty() {
                return Box::pin(std::future::ready(Err(BatchFault::Unreadable(unreadable))));
            }
            let handled = handler(events);
            Box::pin(async move { handled.await.map_err(BatchFault::Failed) })
        };
        Self { most: MOST, wait: WAIT, handler: Arc::new(handler) }
    }

    pub(super) fn limit(&mut self, most: usize, wait: Duration) {
        self.most = most.clamp(1, LARGEST);
        self.wait = wait;
    }

    /// Returns a handler of single events that passes each on as a batch of one.
    pub(super) fn singly(&self) -> Handler {
        let batch = Arc::clone(&self.handler);
        Arc::new(move |message| {
            let handled = batch(&[message]);
            Box::pin(async move {
                handled.await.map_err(|fault| match fault {
                    BatchFault::Failed(error) => Fault::Failed(error),
                    BatchFault::Unreadable(errors) => match errors.into_iter().next() {
                        Some((_, error)) => Fault::Unreadable(error),
                        None => Fault::Failed(HandlerError::new("the event cannot be read")),
                    },
                })
            })
        })
    }
}
