//! When what happens, from a seed.

use std::time::Duration;

use fastrand::Rng;

use crate::{Options, contract::Kind};

/// The shortest soak in which the outage is long enough to be seen.
const SHORTEST: f64 = 60.0;
/// Below this length, chance decides which process handles how much.
const JUDGED: Duration = Duration::from_secs(600);

/// The phases of a soak, as times after its beginning.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How long events are fired.
    pub(crate) length: Duration,
    /// When the event that kills its process is fired.
    pub(crate) poison: Duration,
    /// When the dependency goes away, and for how long.
    pub(crate) outage: Duration,
    pub(crate) outage_length: Duration,
    /// How often a process is killed, on average.
    pub(crate) kill_every: Duration,
    /// No process is killed after this: whether memory grows shows only in processes that live.
    pub(crate) last_kill: Duration,
}

impl Plan {
    pub(crate) fn of(options: &Options) -> Self {
        let length = Duration::from_secs_f64((options.minutes * 60.0).clamp(SHORTEST, 1e6));
        Self {
            length,
            poison: length.mul_f64(0.1),
            outage: length.mul_f64(0.4),
            outage_length: Duration::from_secs(120).min(length.mul_f64(0.3)),
            kill_every: (length / 50).max(Duration::from_secs(8)),
            last_kill: length.mul_f64(0.7),
        }
    }

    pub(crate) fn is_outage(&self, at: Duration) -> bool {
        at >= self.outage && at < self.outage + self.outage_length
    }

    /// The time until the next process is killed: from half of `kill_every` to three halves.
    pub(crate) fn next_kill(&self, rng: &mut Rng) -> Duration {
        self.kill_every.mul_f64(0.5 + rng.f64())
    }

    /// Whether the shares of the processes, and their memory, say something.
    pub(crate) fn is_judged(&self) -> bool {
        self.length >= JUDGED
    }
}

/// What the handling of the next event takes: most take nothing, one in twenty a second.
pub(crate) fn kind(rng: &mut Rng) -> Kind {
    match rng.u8(..100) {
        0..70 => Kind::Instant,
        70..95 => Kind::Quick,
        _ => Kind::Slow,
    }
}
