//! CPU time of the processes taking part.
//!
//! It moves far less under load from others than throughput does, so it is what to compare where
//! the machine is shared. Known on Linux only; elsewhere it is left out.

use std::time::{Duration, Instant};

use crate::record::{CpuPerOp, rounded};

/// The processes that take part in a measurement, by id.
#[derive(Clone, Copy, Debug)]
pub struct Processes {
    /// The process that measures.
    pub client: u32,
    /// The other process, if there is one.
    pub server: Option<u32>,
    /// The broker, if it runs on this machine.
    pub broker: Option<u32>,
}

impl Processes {
    /// This process, alone.
    pub fn of_client() -> Self {
        Self { client: std::process::id(), server: None, broker: None }
    }

    /// The CPU time that each of them has used so far.
    pub fn usage(&self) -> Usage {
        Usage {
            at: Instant::now(),
            client: cpu_time(self.client),
            server: self.server.and_then(cpu_time),
            broker: self.broker.and_then(cpu_time),
            machine: machine_time(),
        }
    }
}

/// CPU time used up to a moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    at: Instant,
    client: Option<Duration>,
    server: Option<Duration>,
    broker: Option<Duration>,
    machine: Option<Duration>,
}

impl Usage {
    /// CPU time for an operation since `earlier`, at so many operations in a second.
    pub fn per_op_since(&self, earlier: &Usage, ops_per_s: f64) -> CpuPerOp {
        let cores = self.cores_since(earlier);
        let per_op = |cores: Option<f64>| {
            cores.filter(|_| ops_per_s > 0.0).map(|cores| rounded(cores * 1e6 / ops_per_s))
        };
        CpuPerOp {
            client: per_op(cores.client),
            server: per_op(cores.server),
            broker: per_op(cores.broker),
        }
    }

    /// Cores kept busy since `earlier` by processes that take no part.
    pub fn other_cores_since(&self, earlier: &Usage) -> Option<f64> {
        let cores = self.cores_since(earlier);
        let ours = [cores.client, cores.server, cores.broker].into_iter().flatten().sum::<f64>();
        cores.machine.map(|machine| rounded((machine - ours).max(0.0)))
    }

    fn cores_since(&self, earlier: &Usage) -> Cores {
        let elapsed = (self.at - earlier.at).as_secs_f64();
        let cores = |now: Option<Duration>, then: Option<Duration>| {
            Some(now?.saturating_sub(then?).as_secs_f64() / elapsed)
        };
        Cores {
            client: cores(self.client, earlier.client),
            server: cores(self.server, earlier.server),
            broker: cores(self.broker, earlier.broker),
            machine: cores(self.machine, earlier.machine),
        }
    }
}

/// Mean number of cores busy over an interval.
struct Cores {
    client: Option<f64>,
    server: Option<f64>,
    broker: Option<f64>,
    machine: Option<f64>,
}

/// The CPU time that a process has used so far, all its threads together; `None` if there is no
/// such process.
#[cfg(target_os = "linux")]
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?);
    let clock = nix::time::clock_getcpuclockid(pid).ok()?;
    nix::time::clock_gettime(clock).ok().map(Duration::from)
}

/// Unknown on this system.
#[cfg(not(target_os = "linux"))]
pub fn cpu_time(_pid: u32) -> Option<Duration> {
    None
}

/// The CPU time that all processes of this machine have used so far.
fn machine_time() -> Option<Duration> {
    /// `USER_HZ`, the unit of `/proc/stat`.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let fields = stat.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map_while(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq; `steal` is another machine's.
    let &[user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks.as_slice() else {
        return None;
    };
    Some(Duration::from_millis((user + nice + system + irq + softirq) * 1000 / TICKS_PER_SECOND))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_shows_in_the_usage() {
        let processes = Processes::of_client();
        let before = processes.usage();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(50) {
            std::hint::black_box(0);
        }
        let after = processes.usage();
        let cpu = after.per_op_since(&before, 1.0);
        assert!(cpu.client.is_some_and(|us| us > 1000.0), "{cpu:?}");
        assert_eq!((cpu.server, cpu.broker), (None, None));
    }

    #[test]
    fn a_process_that_is_not_there_has_no_time() {
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
