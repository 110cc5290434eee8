//! The exchange of events, as a process that fires sees it.
//!
//! Declared by whoever needs it first. Declared again after it was deleted, it would have no bindings: events
//! would be confirmed and reach no listener. So a process that finds that its exchange is gone holds events back
//! until the listeners have bound their queues again; see [`super::watch`] for how they do.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lightbus_core::{Result, time::after};
use tokio::time::{Instant, sleep_until};

use super::watch::{RESTORED_AFTER, missing};
use crate::{link::Link, topology};

#[derive(Debug, Default)]
pub(super) struct Exchange(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    declared: bool,
    /// When all listeners have bound their queues to an exchange that was found missing.
    restored: Option<Instant>,
}

impl Exchange {
    /// Declares the exchange. If it was deleted, waits first until its bindings are restored.
    pub(super) async fn declare(&self, link: &Link, name: &str, deadline: Instant) -> Result<()> {
        let (declared, waits) = {
            let state = self.state();
            (state.declared, state.restored.is_some())
        };
        if declared && !waits && !topology::has_exchange(link, name).await? {
            tracing::warn!(
                exchange = name,
                "the exchange of events was deleted, with the bindings of all listeners: firing waits until they are restored"
            );
            self.state().restored.get_or_insert(after(Instant::now(), RESTORED_AFTER));
        }
        let restored = self.state().restored;
        if let Some(restored) = restored {
            if restored > deadline {
                return Err(missing(name));
            }
            sleep_until(restored).await;
        }
        let channel = link.channel().await?;
        topology::declare_exchange(link, &channel, name).await?;
        *self.state() = State { declared: true, restored: None };
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
