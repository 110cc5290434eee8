//! Fetching through a [`Consumer`], and holding on to what was fetched.
//!
//! A broker with a [lease](super::Broker::lease) redelivers a message to another member unless the
//! lease is renewed. A handler may take its time, and while all credit is used up the driver does not fetch: so a task
//! renews what is held, three times per lease. It ends with the consumer, and with the process, whose
//! messages are then redelivered.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::MissedTickBehavior;

use super::{
    Broker, Consumer, ConsumerSpec, Received,
    shared::{Handle, Shared},
};
use crate::{Closing, Error, Result, Upkeep};

pub(super) type Token<B> = <<B as Broker>::Consumer as Consumer>::Token;

/// A member of a group, with what it holds.
pub(super) struct Member<B: Broker> {
    consumer: Arc<B::Consumer>,
    held: Arc<Held<Token<B>>>,
    shared: Arc<Shared<B>>,
    closing: Arc<Closing>,
    renewing: Option<Upkeep>,
    doing: &'static str,
}

/// What the member has to settle, by a number of its own.
struct Held<T> {
    tokens: Mutex<HashMap<u64, T>>,
    last: AtomicU64,
}

impl<B: Broker> Member<B> {
    /// Joins a group. `doing` says what this is for.
    pub(super) async fn join(
        handle: &Handle<B>,
        spec: ConsumerSpec,
        doing: &'static str,
    ) -> Result<Self> {
        let shared = Arc::clone(handle.open_shared()?);
        let consumer = Arc::new(shared.limit(shared.broker.subscribe(spec)).await?);
        let held = Arc::new(Held { tokens: Mutex::default(), last: AtomicU64::new(0) });
        let renewing = shared.broker.lease().map(|lease| {
            let (consumer, held) = (Arc::clone(&consumer), Arc::clone(&held));
            let renew = move || renew(Arc::clone(&consumer), Arc::clone(&held), lease / 3);
            Upkeep::start("renewing the leases of messages", renew)
        });
        Ok(Self { consumer, held, shared, closing: Arc::clone(handle.closing()), renewing, doing })
    }

    /// Waits for messages, at most `max`; none as a sign of life, an error once the transport is closed.
    pub(super) async fn fetch(&self, max: usize) -> Result<Vec<Received<Token<B>>>> {
        let fetch = self.consumer.fetch(max, B::FETCH_WAIT);
        tokio::select! {
            biased;
            () = self.closing.closed() => Err(Error::closed("the transport")),
            fetched = self.shared.limit_after(B::FETCH_WAIT, fetch) => fetched,
        }
        .map_err(|error| error.during(self.doing))
    }

    /// Keeps a message until it is settled; returns the number by which it is held.
    pub(super) fn hold(&self, token: Token<B>) -> u64 {
        let number = self.held.last.fetch_add(1, Ordering::Relaxed);
        self.held.tokens().insert(number, token);
        number
    }

    /// Acknowledges messages that are not held.
    pub(super) async fn ack(&self, tokens: Vec<Token<B>>) -> Result<()> {
        if tokens.is_empty() {
            return Ok(());
        }
        self.settle(self.consumer.ack(tokens)).await
    }

    /// Acknowledges messages that are held, and lets them go.
    pub(super) async fn ack_held(&self, held: &[u64]) -> Result<()> {
        self.ack(self.held.of(held)).await?;
        self.held.forget(held);
        Ok(())
    }

    /// Releases messages that are held, for another member.
    pub(super) async fn release_held(&self, held: &[u64]) -> Result<()> {
        let tokens = self.held.of(held);
        if !tokens.is_empty() {
            self.settle(self.consumer.release(tokens)).await?;
        }
        self.held.forget(held);
        Ok(())
    }

    pub(super) async fn close(&self) {
        if let Some(renewing) = &self.renewing {
            renewing.stop();
        }
        if tokio::time::timeout(B::TIMEOUT, self.consumer.close()).await.is_err() {
            tracing::debug!(broker = B::NAME, "leaving a group took too long");
        }
    }

    async fn settle(&self, work: impl Future<Output = Result<()>>) -> Result<()> {
        let settled = self.shared.limit(work).await;
        settled.map_err(|error| error.during("settling messages"))
    }
}

impl<T: Clone> Held<T> {
    fn of(&self, held: &[u64]) -> Vec<T> {
        let tokens = self.tokens();
        held.iter().filter_map(|number| tokens.get(number).cloned()).collect()
    }

    fn forget(&self, held: &[u64]) {
        let mut tokens = self.tokens();
        for number in held {
            tokens.remove(number);
        }
    }

    fn all(&self) -> Vec<T> {
        self.tokens().values().cloned().collect()
    }
}

impl<T> Held<T> {
    fn tokens(&self) -> MutexGuard<'_, HashMap<u64, T>> {
        // Nothing panics while it is locked.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn renew<C: Consumer>(consumer: Arc<C>, held: Arc<Held<C::Token>>, every: Duration) {
    let mut ticks = tokio::time::interval(every.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let tokens = held.all();
        if tokens.is_empty() {
            continue;
        }
        // One that hangs must not keep the next from being tried.
        match tokio::time::timeout(every, consumer.renew(tokens)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the leases of messages were not renewed"),
            Err(_) => tracing::debug!("renewing the leases of messages took too long"),
        }
    }
}
