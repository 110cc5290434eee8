//! Listeners that stand still although there is work are begun anew.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use lightbus_core::{ErrorKind, transport::LagSpec};
use tokio::{sync::watch, time::timeout};

use super::listener::Listener;
use crate::bus::shared::{Inner, Phase, Progress, drained};

/// How often the listeners are looked at.
const INTERVAL: Duration = Duration::from_secs(15);
/// At so many looks in a row there must be work that does not become less. A stream may hold events
/// that the listener does not want, and passes over: those come and go.
const LOOKS: u32 = 4;
/// How long the broker may take to say how far a listener is behind.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was seen of a listener last time.
#[derive(Default)]
struct Seen {
    began: u64,
    waiting: u64,
    /// At how many looks in a row there was work, and none was taken.
    suspicious: u32,
}

/// Looks at a listener now and then, until the bus drains. It stands still if at several looks in a
/// row the broker has events for it, it takes none, handles none, and is not waiting for the broker.
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
        if moved || busy || progress.is_interrupted() {
            seen.suspicious = 0;
            continue;
        }
        let Some(waiting) = waiting(&listener).await else {
            // The transport cannot tell, ever.
            return;
        };
        let stuck = waiting > 0 && (seen.suspicious == 0 || waiting >= seen.waiting);
        seen.waiting = waiting;
        seen.suspicious = if stuck { seen.suspicious + 1 } else { 0 };
        if seen.suspicious >= LOOKS {
            seen.suspicious = 0;
            let why =
                format!("{waiting} events wait, and none was taken for {:?}", INTERVAL * LOOKS);
            tracing::error!(listener = %listener.spec.listener, waiting, "a listener stands still; it begins anew");
            progress.stalls(&why);
            progress.renew.notify_one();
        }
    }
}

/// How many events wait for a listener; `None` if the transport cannot tell. While the broker does not
/// answer, nobody can take events, and nothing is to be suspected.
async fn waiting(listener: &Listener) -> Option<u64> {
    let spec = LagSpec {
        service: listener.spec.service.clone(),
        listener: listener.spec.listener.clone(),
        events: listener.spec.events.clone(),
    };
    match timeout(PATIENCE, listener.event.lag(spec)).await {
        Ok(Ok(lag)) => Some(lag.waiting),
        Ok(Err(error)) if error.kind() == ErrorKind::Unsupported => None,
        Ok(Err(_)) | Err(_) => Some(0),
    }
}
