//! The line that a measurement comes out as.

use serde::{Deserialize, Serialize};

/// What was measured, and with which parameters.
#[derive(Clone, Debug)]
pub struct Label {
    /// The name of the measurement, `redis.rpc.naive` for one.
    pub name: String,
    /// Callers at the same time, each with one operation in flight.
    pub callers: usize,
    /// Bytes of payload in each operation.
    pub bytes: usize,
    /// Runtime threads asked for, as in [`Options::threads`](crate::Options::threads).
    pub threads: Option<usize>,
    /// Which repetition this is, from 0.
    pub round: usize,
}

/// One measurement, one line of JSON.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Measurement {
    /// As in [`Label::name`].
    pub name: String,
    /// As in [`Label::callers`].
    pub callers: usize,
    /// As in [`Label::bytes`].
    pub bytes: usize,
    /// Operations completed in a second.
    pub ops_per_s: f64,
    /// The median time of a call in microseconds. Where a call is a batch, the time of the batch.
    pub p50_us: f64,
    /// The 99th percentile of the same.
    pub p99_us: f64,
    /// CPU time for an operation.
    pub cpu_us_per_op: CpuPerOp,
    /// Cores that processes outside the measurement kept busy meanwhile. Much of it, and the
    /// other figures mean little.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_cores: Option<f64>,
    /// Connections that the measuring process had to the broker, where that was counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// As in [`Label::threads`]; absent for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// How long was measured.
    pub seconds: f64,
    /// As in [`Label::round`].
    pub round: usize,
}

impl Measurement {
    /// The measurement as one line of JSON, without the line's end.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
    }
}

/// Microseconds of CPU time for an operation, by process. What is unknown is left out of the line.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct CpuPerOp {
    /// The process that measures: it calls, fires or, where consuming is measured, consumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<f64>,
    /// The other process, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<f64>,
    /// The broker, if it runs on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<f64>,
}

impl CpuPerOp {
    /// The processes together.
    pub fn total(&self) -> f64 {
        [self.client, self.server, self.broker].into_iter().flatten().sum()
    }
}

/// Two digits after the point: more would be noise, and hard to read.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back() {
        let measurement = Measurement {
            name: "redis.rpc.naive".into(),
            callers: 32,
            bytes: 100,
            ops_per_s: 4940.5,
            p50_us: 6400.25,
            p99_us: 9000.0,
            cpu_us_per_op: CpuPerOp { client: Some(28.6), server: Some(79.0), broker: None },
            other_cores: None,
            connections: None,
            threads: None,
            seconds: 3.0,
            round: 1,
        };
        let line = measurement.to_line();
        assert_eq!(
            line,
            r#"{"name":"redis.rpc.naive","callers":32,"bytes":100,"ops_per_s":4940.5,"p50_us":6400.25,"p99_us":9000.0,"cpu_us_per_op":{"client":28.6,"server":79.0},"seconds":3.0,"round":1}"#
        );
        assert_eq!(serde_json::from_str::<Measurement>(&line).ok(), Some(measurement));
    }
}
