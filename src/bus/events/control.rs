//! Pausing, resuming and stopping a listener of this process.

use std::sync::Arc;

use lightbus_core::{Error, ErrorKind, Result};

use crate::bus::{Bus, shared::Listening};

impl Bus {
    /// Pauses a listener of this process: it takes nothing more, and releases what it had taken and
    /// not begun. What is at work may finish. Other processes that listen under the same name go on.
    /// A paused listener does not count as unhealthy.
    ///
    /// # Errors
    ///
    /// [`Unknown`](ErrorKind::Unknown) if this process has no listener of this name.
    pub fn pause(&self, listener: &str) -> Result<()> {
        self.listeners_named(listener)?.iter().for_each(|listener| listener.pause());
        Ok(())
    }

    /// Has a paused listener go on where its group is. Resuming one that is not paused is fine.
    ///
    /// # Errors
    ///
    /// As [`pause`](Self::pause).
    pub fn resume(&self, listener: &str) -> Result<()> {
        self.listeners_named(listener)?.iter().for_each(|listener| listener.resume());
        Ok(())
    }

    /// Stops a listener of this process, and waits until what it has at work is settled. Its group
    /// stays: events wait for it, and another listener of this name may begin, here too.
    ///
    /// # Errors
    ///
    /// As [`pause`](Self::pause).
    ///
    /// # Cancel safety
    ///
    /// Dropped, the listener still stops.
    pub async fn stop_listening(&self, listener: &str) -> Result<()> {
        for listener in self.listeners_named(listener)? {
            listener.stop().await;
        }
        let mut state = self.inner.state();
        state.listeners.retain(|known| &*known.spec().group.listener != listener);
        state.progress.retain(|part| !part.is_listener(listener));
        state.listener_names.remove(listener);
        Ok(())
    }

    fn listeners_named(&self, name: &str) -> Result<Vec<Arc<dyn Listening>>> {
        let state = self.inner.state();
        let all = state.listeners.iter();
        let named: Vec<_> = all
            .filter(|listener| &*listener.spec().group.listener == name)
            .map(Arc::clone)
            .collect();
        if !named.is_empty() {
            return Ok(named);
        }
        let names = state.listener_names.iter().map(|name| &**name);
        Err(Error::new(ErrorKind::Unknown, format!("this process has no listener `{name}`"))
            .did_you_mean(name, names))
    }
}
