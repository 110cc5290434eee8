//! Restarts listeners that are stalled: the broker has events for them, and they take none.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use lightbus_core::ErrorKind;
use tokio::{sync::watch, time::timeout};

use super::listener::Listener;
use crate::bus::shared::{Inner, Phase, Progress, drained};

/// The time between two checks of a listener.
const INTERVAL: Duration = Duration::from_secs(15);
/// How many consecutive checks must find a backlog that does not shrink. A stream may hold events that
/// the listener skips; those come and go.
const CHECKS: u32 = 4;
/// How long the broker may take to report a listener's lag.
const LAG_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of the previous check of a listener.
#[derive(Default)]
struct Seen {
    began: u64,
    waiting: u64,
    /// How many consecutive checks have found a backlog of which nothing was taken.
    suspicious: u32,
}

/// Checks a listener periodically until the bus drains. A listener is stalled if several consecutive
/// checks find that the broker has events for it while it takes none, holds none (one may wait for a
/// retry), is not paused, and is not waiting for the broker.
pub(super) async fn watch_over(
    listener: Weak<Listener>,
    inner: Weak<Inner>,
    progress: Arc<Progress>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            () = drained(&mut phase) => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let (Some(listener), Some(_)) = (listener.upgrade(), inner.upgrade()) else { return };
        let (began, busy) = progress.count();
        let moved = began != seen.began;
        seen.began = began;
        if moved || busy || progress.is_paused() || progress.is_interrupted() {
            seen.suspicious = 0;
            continue;
        }
        let Some(waiting) = waiting(&listener).await else {
            // The transport cannot report lag at all.
            return;
        };
        let stuck = waiting > 0 && (seen.suspicious == 0 || waiting >= seen.waiting);
        seen.waiting = waiting;
        seen.suspicious = if stuck { seen.suspicious + 1 } else { 0 };
        if seen.suspicious >= CHECKS {
            seen.suspicious = 0;
            let why = format!(
                "{waiting} events are waiting, and none was taken for {:?}",
                INTERVAL * CHECKS
            );
            tracing::error!(listener = %listener.spec.group.listener, waiting, "a listener is stalled; restarting it");
            progress.stalled(&why);
            progress.renew.notify_one();
        }
    }
}

/// Returns how many events are waiting for a listener, or `None` if the transport cannot report it.
/// Returns 0 while the broker does not answer: the listener cannot be blamed then.
async fn waiting(listener: &Listener) -> Option<u64> {
    let lag = listener.event.lag(&listener.spec.group, &listener.spec.events);
    match timeout(LAG_TIMEOUT, lag).await {
        Ok(Ok(lag)) => Some(lag.waiting),
        Ok(Err(error)) if error.kind() == ErrorKind::Unsupported => None,
        Ok(Err(_)) | Err(_) => Some(0),
    }
}
