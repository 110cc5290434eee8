//! A consumer of a group.

use std::sync::Arc;

use async_trait::async_trait;
use lightbus_core::{Closing, EventMessage, Outcome, Result, Source, transport::ListenSpec};

use super::{
    WHAT,
    group::{ConsumerId, Group, Taken, Took},
};
use crate::client::Broker;

/// One consumer's side of its group.
pub(super) struct EventSource {
    pub(super) consumer: ConsumerId,
    pub(super) group: Arc<Group>,
    pub(super) spec: ListenSpec,
    pub(super) broker: Arc<Broker>,
    pub(super) max_dead_letters: usize,
    pub(super) closing: Arc<Closing>,
}

#[async_trait]
impl Source for EventSource {
    type Message = EventMessage;
    /// The event's number.
    type Token = u64;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<EventMessage>, u64)>> {
        loop {
            self.closing.check(WHAT)?;
            // Created before looking: it hears what rings from now on.
            let rung = self.group.bell.notified();
            // Taken and returned without an await in between: if the future is dropped, it has taken
            // nothing.
            let Took { taken, more } = self.group.take(self.consumer, &self.spec, max);
            if !taken.is_empty() {
                let deliver = |taken: Taken| (taken.message(), taken.event.number);
                return Ok(taken.into_iter().map(deliver).collect());
            }
            if more {
                // Many that no listener asked for: others may work before the next ones are looked at.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                () = rung => {}
                () = self.closing.closed() => {}
            }
        }
    }

    async fn settle(&self, settled: &[(u64, Outcome)]) -> Result<()> {
        let now = self.broker.clock.now();
        self.group.settle(self.consumer, settled, self.max_dead_letters, now);
        Ok(())
    }

    fn is_suspect(&self, message: &EventMessage, _: &u64) -> bool {
        message.attempt > 2
    }

    async fn begin(&self, number: &u64) -> Result<bool> {
        Ok(self.group.begin(self.consumer, *number))
    }

    fn size(&self, message: &EventMessage) -> usize {
        message.fields.size()
    }

    async fn close(&self) -> Result<()> {
        self.group.leave(self.consumer);
        Ok(())
    }
}

impl Drop for EventSource {
    /// Also if the consumer's task was aborted: a consumer that is gone holds nothing.
    fn drop(&mut self) {
        self.group.leave(self.consumer);
    }
}
