//! What workers and listeners have in common: running user code that may panic, and coming back
//! after the transport gave up.

use std::{any::Any, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use lightbus_core::{Backoff, Delivery, Error, ErrorKind, Result, Subscription};
use tokio::sync::watch;

use super::{Phase, Progress};

/// The waits before a consumer whose transport gave up begins anew.
const FIRST_RESTART: Duration = Duration::from_millis(200);
const LONGEST_RESTART: Duration = Duration::from_secs(10);

/// Runs user code: a panic is a value like any other.
pub(crate) async fn catch_panic<T>(work: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(work).catch_unwind().await.map_err(|panic| panic_text(&*panic).to_owned())
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

/// Takes from a subscription until the bus drains, batch by batch. If the transport gives up, or
/// `progress` is rung because it stands still, it subscribes again after a wait, for ever: losing a
/// broker never ends a process.
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
                error = Some(Error::new(ErrorKind::Unexpected, "it stood still although there was work"));
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
            progress.began_many(deliveries.len() as u64);
            spare = tokio::select! {
                biased;
                spare = take(deliveries) => spare,
                // Dropped where it waits, and what it held is given back.
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
        tracing::error!(consumer = what, %error, "consuming ended; it begins anew");
        progress.ended(&error);
        // What it still held is given back, so that it comes again.
        drop(subscription);
        subscription = loop {
            tokio::select! {
                () = drained(&mut phase) => return,
                () = tokio::time::sleep(restarts.failed()) => {}
            }
            match open().await {
                Ok(subscription) => break subscription,
                Err(error) => {
                    tracing::warn!(consumer = what, %error, "consuming cannot begin yet");
                    progress.cannot_begin(&error);
                }
            }
        };
        progress.subscribed(subscription.connectivity());
    }
    if let Err(error) = subscription.close().await {
        tracing::warn!(consumer = what, %error, "what was not acknowledged comes again");
    }
}

/// Ends when the bus drains, or nobody holds it any more.
pub(crate) async fn drained(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
}

/// Ends when what still runs is to be dropped.
pub(crate) async fn cut_off(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase >= Phase::CutOff).await;
}

/// Runs a consumer, and drops its handlers if they have not finished when they are cut off: then the
/// consumer gives back what they held, and ends.
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
