//! Restarts consumers that are stalled: the broker has events or calls for them, and they take none.

use std::{sync::Arc, time::Duration};

use lightbus_core::{ErrorKind, Result};
use tokio::{sync::watch, time::timeout};

use super::{Phase, Progress, drained};

/// The time between two checks of a consumer.
const INTERVAL: Duration = Duration::from_secs(15);
/// How many consecutive checks must find a backlog that does not shrink. A stream may hold events that
/// the listener skips, and calls expire; those come and go.
const CHECKS: u32 = 4;
/// How long the broker may take to report what waits.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of the previous check of a consumer.
#[derive(Default)]
struct Seen {
    began: u64,
    waiting: u64,
    /// How many consecutive checks have found a backlog of which nothing was taken.
    suspicious: u32,
}

/// Checks a consumer periodically until the bus drains. It is stalled if several consecutive checks find
/// that the broker has something for it while it takes nothing, holds nothing (an event may wait for a
/// retry), is not paused, and is not waiting for the broker. What the broker keeps for other processes
/// does not count: a group may be far behind in partitions that another process has.
///
/// `waiting` asks the broker; it returns `None` when the consumer is gone.
pub(crate) async fn watch_over<Asked>(
    progress: Arc<Progress>,
    mut phase: watch::Receiver<Phase>,
    mut waiting: impl FnMut() -> Option<Asked> + Send,
) where
    Asked: Future<Output = Result<u64>> + Send,
{
    let mut seen = Seen::default();
    loop {
        tokio::select! {
            () = drained(&mut phase) => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let (began, busy) = progress.count();
        let moved = began != seen.began;
        seen.began = began;
        if moved || busy || progress.is_paused() || progress.is_interrupted() {
            seen.suspicious = 0;
            continue;
        }
        let Some(asked) = waiting() else { return };
        let waiting = match timeout(ASK_TIMEOUT, asked).await {
            Ok(Ok(waiting)) => waiting,
            // The transport can never tell.
            Ok(Err(error)) if error.kind() == ErrorKind::Unsupported => return,
            // While the broker does not answer, the consumer cannot be blamed.
            Ok(Err(_)) | Err(_) => 0,
        };
        let stuck = waiting > 0 && (seen.suspicious == 0 || waiting >= seen.waiting);
        seen.waiting = waiting;
        seen.suspicious = if stuck { seen.suspicious + 1 } else { 0 };
        if seen.suspicious >= CHECKS {
            seen.suspicious = 0;
            let what = progress.takes();
            let why = format!(
                "{waiting} {what} are waiting, and none was taken for {:?}",
                INTERVAL * CHECKS
            );
            tracing::error!(
                consumer = progress.what(),
                waiting,
                "a consumer is stalled; restarting it"
            );
            progress.stalled(&why);
            progress.renew.notify_one();
        }
    }
}
