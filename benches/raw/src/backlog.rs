//! Consuming what was sent before, a hundred at a time: what is measured meanwhile, on every broker
//! the same. A backlog is read once; what is left of the time counts nothing, so it is as large as
//! the bus's.

use std::time::Instant;

use crate::cpu::Usage;
use crate::driver::{Latencies, Samples};
use crate::{Outcome, Processes, Result};

const HUNDRED: usize = 100;
/// So many are sent at a time to fill it.
pub(crate) const SENT_AT_ONCE: usize = 500;

/// How many messages of this size a backlog has.
pub(crate) fn size(bytes: usize) -> usize {
    const MOST_MESSAGES: usize = 100_000;
    const MOST_BYTES: usize = 64 << 20;
    (MOST_BYTES / bytes.max(1)).min(MOST_MESSAGES)
}

/// A backlog that is being read. Its first tenth warms up.
pub(crate) struct Backlog {
    size: usize,
    warmup: usize,
    read: usize,
    processes: Processes,
    latencies: Latencies,
    samples: Samples,
    began: Option<(Instant, Usage)>,
    hundred: Instant,
}

impl Backlog {
    pub(crate) fn of(size: usize) -> Result<Self> {
        let latencies = Latencies::new()?;
        Ok(Self {
            size,
            warmup: size / 10,
            read: 0,
            processes: Processes::of_client(),
            samples: Samples::new(latencies.clone()),
            latencies,
            began: None,
            hundred: Instant::now(),
        })
    }

    pub(crate) fn is_read(&self) -> bool {
        self.read >= self.size
    }

    /// Notes a message. Whether it is time to acknowledge all since the last time.
    pub(crate) fn note(&mut self) -> bool {
        self.read += 1;
        if self.read == self.warmup {
            self.began = Some((Instant::now(), self.processes.usage()));
        }
        self.read.is_multiple_of(HUNDRED) || self.is_read()
    }

    /// Notes that all are acknowledged.
    pub(crate) fn acknowledged(&mut self) {
        if self.read > self.warmup {
            self.samples.push(self.hundred.elapsed());
        }
        self.hundred = Instant::now();
    }

    /// What was measured until now.
    pub(crate) fn outcome(self) -> Result<Outcome> {
        let (ended, after) = (Instant::now(), self.processes.usage());
        drop(self.samples);
        let Some((start, before)) = self.began else { return Err("nothing was measured".into()) };
        let operations = (self.read - self.warmup) as u64;
        let duration = ended - start;
        Ok(Outcome {
            operations,
            duration,
            latencies: self.latencies.take()?,
            cpu: after.per_op_since(&before, operations as f64 / duration.as_secs_f64()),
            other_cores: after.other_cores_since(&before),
        })
    }
}
