//! What becomes of an event whose handler fails.

use std::time::Duration;

/// What becomes of an event whose handler fails or panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// It is tried again, and after the last try set aside as a dead letter. The default.
    Retry(RetryPolicy),
    /// It is logged and acknowledged.
    Acknowledge,
    /// The process ends with an error, and the event stays unacknowledged: Python's default.
    Shutdown,
}

impl Default for OnError {
    fn default() -> Self {
        Self::Retry(RetryPolicy::default())
    }
}

/// How often, and after which waits, a failed event is tried again. Later events wait meanwhile, so
/// that order is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// All tries together: 5.
    pub attempts: u32,
    /// The wait after the first failure, doubled with each further one, and shortened by a random
    /// part of up to a half: 200 ms.
    pub first_wait: Duration,
    /// The longest wait: 10 s.
    pub longest_wait: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(10),
        }
    }
}
