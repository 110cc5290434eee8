//! Why a message is set aside.

use std::{fmt, ops::Deref, sync::Arc};

/// Why a message cannot be handled, and after how many tries that was given up. Dereferences to the
/// reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    reason: Arc<str>,
    tries: u32,
}

impl Rejection {
    /// Given up for this reason, after one try.
    #[must_use]
    pub fn new(reason: impl Into<Arc<str>>) -> Self {
        Self { reason: reason.into(), tries: 1 }
    }

    /// Given up for this reason without a try of this delivery: its earlier deliveries say enough.
    #[must_use]
    pub fn untried(reason: impl Into<Arc<str>>) -> Self {
        Self { reason: reason.into(), tries: 0 }
    }

    /// Given up after this many tries of this delivery. Zero counts as one.
    #[must_use]
    pub fn after(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// How often this delivery was tried.
    #[must_use]
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// What a dead letter says of its attempts
    /// ([`DeadLetter::attempts`](crate::transport::DeadLetter::attempts)): the tries of this delivery,
    /// and one for each delivery before it. `delivery` is which one this is, counted from 1; 0 where
    /// the broker does not count.
    #[must_use]
    pub fn attempts(&self, delivery: u32) -> u32 {
        delivery.saturating_sub(1).saturating_add(self.tries)
    }
}

impl Deref for Rejection {
    type Target = str;

    fn deref(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl From<&str> for Rejection {
    fn from(reason: &str) -> Self {
        Self::new(reason)
    }
}

impl From<String> for Rejection {
    fn from(reason: String) -> Self {
        Self::new(reason)
    }
}

impl From<Arc<str>> for Rejection {
    fn from(reason: Arc<str>) -> Self {
        Self::new(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_the_tries_and_the_deliveries_before() {
        let rejection = Rejection::from("no").after(5);
        assert_eq!(rejection.attempts(0), 5, "the broker does not count");
        assert_eq!(rejection.attempts(1), 5);
        assert_eq!(rejection.attempts(3), 7);
        assert_eq!(rejection.attempts(u32::MAX), u32::MAX);
        assert_eq!(Rejection::new("no").attempts(1), 1);
    }
}
