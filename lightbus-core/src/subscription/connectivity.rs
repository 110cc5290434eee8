//! Whether the broker behind a subscription answers.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// Tells whether a subscription's broker answers, also to those who do not hold the subscription.
#[derive(Clone, Debug, Default)]
pub struct Connectivity(Arc<AtomicBool>);

impl Connectivity {
    /// Whether the last thing the broker was asked for failed, and it is asked again and again.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set_interrupted(&self, interrupted: bool) {
        self.0.store(interrupted, Ordering::Relaxed);
    }
}
