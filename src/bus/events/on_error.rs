//! What happens to an event whose handler fails.

use std::time::Duration;

/// What happens to an event whose handler fails or panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// The event is retried with exponential backoff, and dead-lettered when retries run out. The
    /// default.
    Retry(RetryPolicy),
    /// The failure is logged and the event acknowledged.
    Acknowledge,
    /// The process shuts down with an error and leaves the event unacknowledged. The default in
    /// Python.
    Shutdown,
}

impl Default for OnError {
    fn default() -> Self {
        Self::Retry(RetryPolicy::default())
    }
}

/// How often and after which delays a failed event is retried. Later events (of its key, where
/// [`concurrency`](crate::Listen::concurrency) is above one) wait meanwhile, so that order is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The number of attempts in all, including the first. Default: 5.
    pub attempts: u32,
    /// The delay after the first failure. It doubles with each further one, and is shortened by a
    /// random part of up to a half. Default: 200 ms.
    pub first_wait: Duration,
    /// The longest delay. Default: 10 s.
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
