//! The deliveries in flight, each in a numbered slot.

use std::sync::Arc;

use super::{delivery::Settlement, session::Session};

pub(super) struct Slot<M, T> {
    /// Away while the source notes that work on it begins.
    pub(super) token: Option<T>,
    /// Kept to be delivered again; without it for sources that never do.
    pub(super) message: Option<Arc<M>>,
    pub(super) session: Option<Session>,
    pub(super) drops: u32,
    /// The bytes of the message.
    pub(super) bytes: usize,
    /// It may have ended the processes that had it.
    pub(super) suspect: bool,
    /// The source knows that work on it has begun.
    pub(super) begun: bool,
    /// Settled while the token was away.
    pub(super) late: Option<Settlement>,
}

/// Slots are reused, so that a busy subscription allocates nothing.
pub(super) struct Slots<M, T> {
    slots: Vec<Option<Slot<M, T>>>,
    free: Vec<usize>,
}

impl<M, T> Slots<M, T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub(super) fn insert(&mut self, slot: Slot<M, T>) -> usize {
        if let Some(index) = self.free.pop() {
            self.slots[index] = Some(slot);
            index
        } else {
            self.slots.push(Some(slot));
            self.slots.len() - 1
        }
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Slot<M, T>> {
        self.slots.get_mut(index)?.as_mut()
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Slot<M, T>> {
        let slot = self.slots.get_mut(index)?.take()?;
        self.free.push(index);
        Some(slot)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Slot<M, T>> {
        self.free.clear();
        self.slots.drain(..).flatten()
    }
}
