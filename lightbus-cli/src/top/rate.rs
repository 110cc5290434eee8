//! Rates and durations.

use std::{collections::VecDeque, time::Duration};

/// Rates cover this many of the last intervals.
pub(super) const INTERVALS: usize = 10;
/// How many of the last durations are kept.
const SAMPLES: usize = 512;

/// How often something happened in the last intervals.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate {
    now: u64,
    past: VecDeque<u64>,
}

impl Rate {
    pub(super) fn count(&mut self) {
        self.now = self.now.saturating_add(1);
    }

    /// Ends an interval.
    pub(super) fn tick(&mut self) {
        if self.past.len() == INTERVALS {
            self.past.pop_front();
        }
        self.past.push_back(std::mem::take(&mut self.now));
    }

    /// Occurrences per second; `window` is the length of all intervals together.
    #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(super) fn per_second(&self, window: Duration) -> f64 {
        let count: u64 = self.past.iter().sum();
        if window.is_zero() { 0.0 } else { count as f64 / window.as_secs_f64() }
    }
}

/// The last durations, each with the interval in which it ended.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    taken: VecDeque<(u64, f64)>,
    interval: u64,
}

/// A summary of durations, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) mean: f64,
    pub(super) p95: f64,
    pub(super) longest: f64,
}

impl Times {
    pub(super) fn note(&mut self, seconds: f64) {
        if !seconds.is_finite() {
            return;
        }
        if self.taken.len() == SAMPLES {
            self.taken.pop_front();
        }
        // Negative if a clock was set back.
        self.taken.push_back((self.interval, seconds.max(0.0)));
    }

    /// Ends an interval, and forgets durations that are older than the rates cover.
    pub(super) fn tick(&mut self) {
        self.interval += 1;
        let oldest = self.interval.saturating_sub(INTERVALS as u64);
        while self.taken.front().is_some_and(|(interval, _)| *interval < oldest) {
            self.taken.pop_front();
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "at most 512")]
    pub(super) fn summary(&self) -> Option<Summary> {
        let mut times: Vec<f64> = self.taken.iter().map(|(_, seconds)| *seconds).collect();
        times.sort_by(f64::total_cmp);
        let longest = *times.last()?;
        // By the nearest-rank method.
        let rank = (times.len() * 95).div_ceil(100).max(1) - 1;
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        Some(Summary { mean, p95: times[rank], longest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_of_the_last_intervals() {
        let mut rate = Rate::default();
        for _ in 0..20 {
            rate.count();
        }
        assert!(rate.per_second(Duration::from_secs(1)) < f64::EPSILON, "not before the end");
        rate.tick();
        assert!((rate.per_second(Duration::from_secs(2)) - 10.0).abs() < f64::EPSILON);
        for _ in 0..INTERVALS {
            rate.tick();
        }
        assert!(rate.per_second(Duration::from_secs(10)) < f64::EPSILON);
        assert!(rate.per_second(Duration::ZERO) < f64::EPSILON);
    }

    #[test]
    fn times_are_summed_up_and_forgotten() {
        let mut times = Times::default();
        assert_eq!(times.summary(), None);
        for hundredth in 1..=100 {
            times.note(f64::from(hundredth) / 100.0);
        }
        times.note(f64::NAN);
        let summary = times.summary().unwrap_or_default();
        assert!((summary.mean - 0.505).abs() < 1e-9, "{summary:?}");
        assert!((summary.p95 - 0.95).abs() < 1e-9 && (summary.longest - 1.0).abs() < 1e-9);
        for _ in 0..10_000 {
            times.note(-1.0);
        }
        assert_eq!(times.taken.len(), SAMPLES);
        assert!(times.summary().unwrap_or_default().longest < f64::EPSILON);
        for _ in 0..=INTERVALS {
            times.tick();
        }
        assert_eq!(times.summary(), None);
    }
}
