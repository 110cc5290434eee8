//! Growing, jittered waits between tries.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    time::Duration,
};

/// Waits that double from a first to a longest, each shortened by a random part of up to a half,
/// so that those who failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits that begin with `first` and never exceed `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: 0 }
    }

    /// How often it failed since the last success.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Counts a failure, and says how long to wait after it.
    pub fn failed(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        Self::wait(self.first, self.longest, self.failures)
    }

    /// Counts a success: the next wait is the first one again.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after the failure number `failures`, counted from 1.
    #[must_use]
    pub fn wait(first: Duration, longest: Duration, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(20);
        let full = first.saturating_mul(1 << doublings).min(longest);
        let random = RandomState::new().build_hasher().finish() % 1024;
        full.saturating_sub(full.mul_f64(random as f64 / 2048.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for full in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.failed().as_millis();
            assert!(wait <= full && wait >= full / 2 - 1, "{wait} of {full}");
        }
        backoff.succeeded();
        assert!(backoff.failed().as_millis() <= 100);
    }
}
