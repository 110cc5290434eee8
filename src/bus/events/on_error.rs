//! What happens to an event whose handler fails.

use std::time::Duration;

/// What happens to an event whose handler fails or panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

/// How often and after which delays a failed event is retried, and when it is dead-lettered. Later
/// events (of its key, where [`concurrency`](crate::Listen::concurrency) is above one) wait meanwhile,
/// so that order is kept.
///
/// ```
/// # use std::time::Duration;
/// use lightbus::RetryPolicy;
///
/// let patient = RetryPolicy::attempts(8).backoff(Duration::from_millis(200), Duration::from_secs(60));
/// assert_eq!(patient, RetryPolicy { attempts: 8, longest_wait: Duration::from_secs(60), ..RetryPolicy::default() });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The number of attempts in all, including the first. Default: 5. Zero counts as one.
    pub attempts: u32,
    /// The delay after the first failure. It doubles with each further one, and is shortened by a
    /// random part of up to a half. Default: 200 ms.
    pub first_wait: Duration,
    /// The longest delay. Default: 10 s.
    pub longest_wait: Duration,
    /// How many times an event is delivered whose process ends while handling it; then it is
    /// dead-lettered without being handled. Default: 5. Zero counts as one.
    pub deliveries: u32,
    /// Whether the listener pauses when different events fail in a row and none is handled in between,
    /// as when a database is away: it then retries one event at a time with exponential backoff until
    /// one is handled, and dead-letters nothing meanwhile. Default: `true`. `false`, and a policy of a
    /// single attempt, dead-letter each event when its retries run out.
    ///
    /// With the breaker, an event whose retries run out while no other event was handled waits for
    /// another to compare with: four times as long as its attempts took, at most
    /// [`longest_wait`](Self::longest_wait).
    pub breaker: bool,
    /// How long an event may keep failing while the listener is paused in this way. Then it is
    /// dead-lettered at its next failure: if all that waits cannot be handled, no other event can show
    /// that. Default: 10 minutes, so an outage of less dead-letters nothing.
    pub longest_outage: Duration,
}

impl RetryPolicy {
    /// Returns a policy with this number of attempts, including the first, and the default delays.
    #[must_use]
    pub const fn attempts(attempts: u32) -> Self {
        Self {
            attempts,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(10),
            deliveries: 5,
            breaker: true,
            longest_outage: Duration::from_secs(600),
        }
    }

    /// Sets the delay after the first failure, and the longest delay.
    #[must_use]
    pub const fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        self.first_wait = first;
        self.longest_wait = longest;
        self
    }

    /// Sets how many deliveries of an event that are never settled are made before it is dead-lettered.
    #[must_use]
    pub const fn deliveries(mut self, deliveries: u32) -> Self {
        self.deliveries = deliveries;
        self
    }

    /// Sets whether the listener waits while different events fail in a row.
    #[must_use]
    pub const fn breaker(mut self, breaker: bool) -> Self {
        self.breaker = breaker;
        self
    }

    /// Sets how long an event may keep failing while different events fail in a row.
    #[must_use]
    pub const fn longest_outage(mut self, limit: Duration) -> Self {
        self.longest_outage = limit;
        self
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::attempts(5)
    }
}
