//! Watches the exchange for a listener.
//!
//! RabbitMQ tells a consumer that its queue was deleted, but no client that an exchange was. Its bindings
//! are gone then; publishing fails until some process declares it again, and from then on events reach no
//! queue, although each is confirmed. So every listener looks for the exchange each [`LOOK`].
//!
//! The race is between the listeners. The first one that declared the exchange would hide from the others
//! that it had been deleted. So a listener that finds it missing waits for [`RESTORE_AFTER`], within which
//! all others find it missing too, and only then declares and binds. A process that fires waits for
//! [`RESTORED_AFTER`] after it found the exchange missing, by when all listeners have bound their queues
//! ([`super::exchange`]). A process that did not find it missing, because it fired nothing in between, may be
//! ahead of a listener by [`LOOK`]. What else may happen to bindings, such as that an operator removes one,
//! or that a process that starts declares the exchange in between, is mended within [`RESTORE_EVERY`].
//!
//! Held by tests/transport/deleted.rs.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lapin::Channel;
use lightbus_core::{Error, ErrorKind, Result, Upkeep, transport::ListenSpec};
use tokio::time::sleep;

use super::{group, prefetch::Prefetch};
use crate::{EventConfig, client::Client, link::Link, topology};

/// How often to look for the exchange.
const LOOK: Duration = Duration::from_millis(1500);
/// How long after it was found missing a listener declares it and binds its queue.
const RESTORE_AFTER: Duration = Duration::from_millis(1800);
/// How long after one process found it missing all listeners have bound their queues.
pub(super) const RESTORED_AFTER: Duration = Duration::from_millis(4000);
/// After how many looks everything is declared and bound in any case.
const RESTORE_EVERY: u32 = 10;

/// What a listener has to report: that its exchange is missing, or that it is restored.
pub(super) type Report = Result<()>;

/// The last report, until a fetch returns it.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<Option<Report>>);

impl Reports {
    pub(super) fn take(&self) -> Option<Report> {
        self.last().take()
    }

    fn last(&self) -> MutexGuard<'_, Option<Report>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a watch needs to restore a listener.
pub(super) struct Watched {
    pub(super) client: Arc<Client>,
    pub(super) config: Arc<EventConfig>,
    pub(super) spec: ListenSpec,
    pub(super) prefetch: Arc<Prefetch>,
    pub(super) reports: Arc<Reports>,
}

impl Watched {
    /// Watches until what it returns is dropped.
    pub(super) fn start(self) -> Upkeep {
        let watched = Arc::new(self);
        Upkeep::start("watching the exchange of events", move || {
            let watched = Arc::clone(&watched);
            async move { watched.watch().await }
        })
    }

    async fn watch(&self) {
        let mut channel = None;
        for look in 1_u32.. {
            sleep(LOOK).await;
            // Whoever fetches reconnects.
            let Some(link) = self.client.consumes_now() else { continue };
            match self.is_missing(&link, &mut channel).await {
                Ok(true) => self.restore().await,
                Ok(false) if look.is_multiple_of(RESTORE_EVERY) => {
                    if let Err(error) = group::restore(&link, &self.config, &self.spec).await {
                        tracing::debug!(%error, "a listener's bindings could not be checked");
                    }
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "a listener's exchange could not be checked"),
            }
        }
    }

    /// Whether the exchange does not exist. The channel is kept as long as it lives.
    async fn is_missing(&self, link: &Link, kept: &mut Option<Channel>) -> Result<bool> {
        let channel = match kept.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => link.channel().await?,
        };
        let exchange = topology::exchange_of(&self.config);
        let exists = topology::exchange_exists(link, &channel, &exchange).await?;
        if exists {
            *kept = Some(channel);
        }
        Ok(!exists)
    }

    /// Restores the exchange and the bindings, and reports both that they were lost and that they are back.
    async fn restore(&self) {
        let exchange = topology::exchange_of(&self.config);
        tracing::warn!(
            listener = &*self.spec.group.name(),
            exchange,
            "the exchange of events was deleted, with the bindings of all listeners: they are restored"
        );
        self.report(Err(missing(&exchange)));
        sleep(RESTORE_AFTER).await;
        loop {
            let restored = match self.client.consumes_now() {
                Some(link) => group::restore(&link, &self.config, &self.spec).await,
                None => Err(Error::new(ErrorKind::Unavailable, "the connection is lost")),
            };
            match restored {
                Ok(()) => return self.report(Ok(())),
                Err(error) if error.is_temporary() => {
                    tracing::debug!(%error, "a listener's bindings could not be restored yet");
                    sleep(LOOK).await;
                }
                // The subscription ends with it, and whoever listens subscribes again.
                Err(error) => return self.report(Err(error)),
            }
        }
    }

    fn report(&self, report: Report) {
        *self.reports.last() = Some(report);
        self.prefetch.wake();
    }
}

/// The error of what needs an exchange that does not exist any more.
pub(super) fn missing(exchange: &str) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the exchange of events was deleted, with the bindings of all listeners",
    )
    .with("exchange", exchange)
    .hint(format!("Listeners restore them within {RESTORED_AFTER:?}. Who deletes it?"))
}
