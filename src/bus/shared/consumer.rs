//! What workers and listeners share: consuming from a subscription until the bus drains, restarting
//! after the transport has given up.
//!
//! Each worker and each listener has one task that runs [`consume`]. It owns the subscription. `take`
//! receives a batch of deliveries and owns them; whatever it drops unsettled is returned to the broker.
//!
//! It ends in one of three ways. *Drained*: no more is fetched, `take` finishes, and closing the
//! subscription waits for the deliveries that handlers still hold. *Cut off*: the time for that is
//! over; `take` is dropped at the await it is suspended in. *Restarted*: the transport gave up, or the
//! watchdog found the consumer stalled; the old subscription is dropped before the next is opened, so
//! that the broker can redeliver what it held (tests `a_listener_whose_transport_gave_up_is_restarted`
//! and `a_stalled_listener_is_restarted`). An error arrives behind the deliveries that came
//! before it, so those are handled first. A panic restarts the whole task, see
//! [`supervise`](super::supervise).
//!
//! Handlers that run in tasks of their own outlive `take`. Closing the subscription would then wait for
//! their deliveries until `FlowControl::close_timeout`, longer than the process may live: they must be
//! dropped *while* the subscription closes, hence [`until_cut_off`], which polls both
//! (test `what_outlives_the_drain_timeout_is_cut_off_and_told`).

use std::sync::Arc;

use lightbus_core::{Backoff, Delivery, Error, ErrorKind, Result, Subscription};
use tokio::sync::watch;

use super::{
    Inner, Phase, Progress,
    supervise::{FIRST_RESTART, LONGEST_RESTART, supervise},
};

/// Consumes from a subscription until the bus drains, batch by batch. If the transport gives up, or
/// `progress.renew` is notified, it subscribes again with exponential backoff, without a limit: losing
/// a broker never ends a process.
pub(crate) async fn consume<M, Open, Opened, Take, Taken>(
    first: Subscription<M>,
    mut phase: watch::Receiver<Phase>,
    progress: &Progress,
    open: Open,
    mut take: Take,
) where
    M: Send + Sync + 'static,
    Open: Fn() -> Opened,
    Opened: Future<Output = Result<Subscription<M>>>,
    Take: FnMut(Vec<Delivery<M>>) -> Taken,
    Taken: Future<Output = Vec<Delivery<M>>>,
{
    let what = progress.what();
    let mut subscription = first;
    progress.subscribed(subscription.connectivity());
    let mut restarts = Backoff::new(FIRST_RESTART, LONGEST_RESTART);
    let mut buffer = Vec::new();
    let mut spare = Vec::new();
    loop {
        let mut error = None;
        tokio::select! {
            biased;
            () = drained(&mut phase) => break,
            () = progress.renew.notified() => {
                error = Some(Error::new(ErrorKind::Unexpected, "it was stalled"));
            }
            _ = subscription.next_batch(&mut buffer, 64) => {}
        }
        let ended = buffer.is_empty();
        let mut deliveries: Vec<Delivery<M>> = std::mem::take(&mut spare);
        for delivery in buffer.drain(..) {
            match delivery {
                Ok(delivery) => deliveries.push(delivery),
                Err(gave_up) => error = Some(gave_up),
            }
        }
        if !deliveries.is_empty() {
            restarts.succeeded();
            progress.took(deliveries.len());
            spare = tokio::select! {
                biased;
                spare = take(deliveries) => spare,
                // `take` is dropped, and the deliveries it held are returned.
                () = cut_off(&mut phase) => break,
            };
            spare.clear();
        } else {
            spare = deliveries;
        }
        if !ended && error.is_none() {
            continue;
        }
        let error = error.unwrap_or_else(|| Error::closed("the subscription"));
        tracing::error!(consumer = what, %error, "consumer ended; restarting it");
        progress.ended(&error);
        // Before the next is opened: what it held is redelivered.
        drop(subscription);
        match reopen(&mut phase, progress, &mut restarts, &open).await {
            Some(reopened) => subscription = reopened,
            None => return,
        }
        progress.subscribed(subscription.connectivity());
    }
    if let Err(error) = subscription.close().await {
        tracing::warn!(consumer = what, %error, "cannot close the subscription; unacknowledged messages are redelivered");
    }
}

/// Subscribes again, with exponential backoff until it succeeds. Returns `None` if the bus drains first.
async fn reopen<M, Open, Opened>(
    phase: &mut watch::Receiver<Phase>,
    progress: &Progress,
    restarts: &mut Backoff,
    open: &Open,
) -> Option<Subscription<M>>
where
    Open: Fn() -> Opened,
    Opened: Future<Output = Result<Subscription<M>>>,
{
    loop {
        let opened = async {
            tokio::time::sleep(restarts.failed()).await;
            open().await
        };
        let opened = tokio::select! {
            biased;
            () = drained(phase) => return None,
            opened = opened => opened,
        };
        match opened {
            Ok(subscription) => return Some(subscription),
            Err(error) => {
                tracing::warn!(consumer = progress.what(), %error, "cannot restart the consumer yet");
                progress.cannot_restart(&error);
            }
        }
    }
}

impl Inner {
    /// Spawns a consumer. `run` consumes a subscription and must end by itself when the bus drains. If it
    /// panics, it is restarted with a new subscription.
    pub(crate) fn spawn_consumer<M, Open, Opened, Run, Running>(
        &self,
        progress: Arc<Progress>,
        first: Subscription<M>,
        open: Open,
        run: Run,
    ) where
        M: Send + Sync + 'static,
        Open: Fn() -> Opened + Clone + Send + Sync + 'static,
        Opened: Future<Output = Result<Subscription<M>>> + Send,
        Run: Fn(Subscription<M>) -> Running + Clone + Send + Sync + 'static,
        Running: Future<Output = ()> + Send,
    {
        let phase = self.watch();
        let mut first = Some(first);
        self.state().consumers.spawn(async move {
            let begin = || {
                let (first, open, run) = (first.take(), open.clone(), run.clone());
                let (progress, mut phase) = (Arc::clone(&progress), phase.clone());
                async move {
                    let mut restarts = Backoff::new(FIRST_RESTART, LONGEST_RESTART);
                    let subscription = match first {
                        Some(first) => first,
                        None => match reopen(&mut phase, &progress, &mut restarts, &open).await {
                            Some(reopened) => reopened,
                            None => return,
                        },
                    };
                    run(subscription).await;
                }
            };
            supervise(&progress, phase.clone(), begin).await;
        });
    }
}

/// Waits until the bus drains or has been dropped.
pub(crate) async fn drained(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
}

/// Waits until everything that still runs is to be dropped.
pub(crate) async fn cut_off(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::CutOff).await;
}

/// Runs a consumer to its end. On cut-off it drops the handlers, which returns their deliveries, so
/// that the consumer can close its subscription.
pub(crate) async fn until_cut_off(
    consumer: impl Future<Output = ()>,
    mut phase: watch::Receiver<Phase>,
    drop_handlers: impl AsyncFnOnce(),
) {
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    tokio::join!(
        async {
            consumer.await;
            drop(end);
        },
        async {
            tokio::select! {
                biased;
                _ = ended => {}
                () = cut_off(&mut phase) => drop_handlers().await,
            }
        }
    );
}
