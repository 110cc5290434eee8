//! Deadlines that cannot overflow.
//!
//! `Instant + Duration` panics where the sum has no representation, and `Duration::MAX` is what a
//! program writes that means "no limit". Every deadline that comes from a setting is computed here.

use std::time::Duration;

use tokio::time::Instant;

/// The longest wait: a century. Longer ones count as this.
pub const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The moment that is `wait` from now; waits longer than [`LONGEST`] count as that.
///
/// ```
/// # use std::time::Duration;
/// # use lightbus_core::time::{LONGEST, deadline_after};
/// let never = deadline_after(Duration::MAX);
/// assert!(never <= deadline_after(LONGEST));
/// ```
#[must_use]
pub fn deadline_after(wait: Duration) -> Instant {
    after(Instant::now(), wait)
}

/// The moment that is `wait` after another; waits longer than [`LONGEST`] count as that.
#[must_use]
pub fn after<M: Moment>(start: M, wait: Duration) -> M {
    start.checked_after(wait.min(LONGEST)).unwrap_or(start)
}

/// A moment: of tokio's clock, the machine's, or the calendar.
pub trait Moment: Copy {
    /// The moment that is `wait` later, if there is one.
    fn checked_after(self, wait: Duration) -> Option<Self>;
}

macro_rules! moments {
    ($($moment:ty),*) => {$(
        impl Moment for $moment {
            fn checked_after(self, wait: Duration) -> Option<Self> {
                self.checked_add(wait)
            }
        }
    )*};
}

moments!(Instant, std::time::Instant, std::time::SystemTime);

/// So many seconds as a configuration has them; more than [`LONGEST`] count as that. `None` for a
/// negative number, and for what is no number.
#[must_use]
pub fn seconds(seconds: f64) -> Option<Duration> {
    if seconds.is_nan() {
        return None;
    }
    Duration::try_from_secs_f64(seconds.min(LONGEST.as_secs_f64())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_the_longest_counts_as_that() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::MAX), after(now, LONGEST));
        assert!(after(now, LONGEST) > now);
        assert_eq!(
            after(after(now, Duration::MAX), Duration::MAX),
            after(after(now, LONGEST), LONGEST)
        );
        for many in [1e19, 1e300, f64::INFINITY] {
            assert_eq!(seconds(many), Some(LONGEST), "{many}");
        }
        assert_eq!(seconds(1.5), Some(Duration::from_millis(1500)));
        assert_eq!(seconds(0.0), Some(Duration::ZERO));
        for wrong in [-1.0, f64::NAN, f64::NEG_INFINITY] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }
}
