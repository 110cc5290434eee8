//! The targets, and how far they are reached.

use std::fmt::Write as _;

use lightbus_bench_raw::Measurement;

/// Other processes that keep more than this many cores busy spoil a measurement.
const DISTURBED: f64 = 0.4;

/// A figure of one side: a measurement, and how it was made.
#[derive(Clone, Copy, Debug)]
struct Of {
    name: &'static str,
    callers: usize,
    bytes: usize,
}

/// Which figure is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Figure {
    /// Operations in a second.
    Rate,
    /// The median time of an operation: what to go by with one caller.
    P50,
    /// CPU time of all processes for an operation.
    Cpu,
}

/// A ratio of the bus's figure to the other.
#[derive(Clone, Copy, Debug)]
enum Ratio {
    AtLeast { must: f64, aim: f64 },
    AtMost { must: f64, aim: f64 },
}

use Ratio::{AtLeast, AtMost};

#[derive(Clone, Copy, Debug)]
struct Target {
    number: u8,
    what: &'static str,
    bus: Of,
    with: Of,
    figure: Figure,
    ratio: Ratio,
}

const fn of(name: &'static str, callers: usize, bytes: usize) -> Of {
    Of { name, callers, bytes }
}

const NAIVE: &str = "redis.rpc.naive";
const BEST: &str = "redis.rpc.shared-batch+batch-server";
const XADD: &str = "redis.event.xadd.mux";
const KAFKA_RPC: &str = "kafka.rpc.two-topics";
const KAFKA_RPC_COMMIT: &str = "kafka.rpc.two-topics.commit-first";
const KAFKA_FIRE: &str = "kafka.event.produce.acks-all";
const KAFKA_CONSUME: &str = "kafka.event.consume.commit100";
const AMQP_RPC: &str = "amqp.rpc.reply-to.ack";
const AMQP_FIRE: &str = "amqp.event.publish.quorum.confirm";
const AMQP_CONSUME: &str = "amqp.event.consume.quorum.multiple100";
const CONSUME: &str = "redis.event.consume.count100.ack+read-pipelined";

const fn target(
    number: u8,
    what: &'static str,
    bus: Of,
    with: Of,
    figure: Figure,
    ratio: Ratio,
) -> Target {
    Target { number, what, bus, with, figure, ratio }
}

/// The numbers are those of README.md.
const TARGETS: [Target; 27] = [
    target(
        1,
        "call, 256 callers",
        of("bus.rpc", 256, 100),
        of(BEST, 256, 100),
        Figure::Rate,
        AtLeast { must: 0.60, aim: 0.80 },
    ),
    target(
        2,
        "call, 32 callers",
        of("bus.rpc", 32, 100),
        of(BEST, 32, 100),
        Figure::Rate,
        AtLeast { must: 0.60, aim: 0.90 },
    ),
    target(
        3,
        "call, 1 caller",
        of("bus.rpc", 1, 100),
        of(NAIVE, 1, 100),
        Figure::P50,
        AtMost { must: 1.6, aim: 1.1 },
    ),
    target(
        4,
        "call, 256 callers, CPU",
        of("bus.rpc", 256, 100),
        of(BEST, 256, 100),
        Figure::Cpu,
        AtMost { must: 2.0, aim: 1.5 },
    ),
    target(
        5,
        "call, 256 callers, 10 kB, text",
        of("bus.rpc", 256, 10_000),
        of(BEST, 256, 10_000),
        Figure::Rate,
        AtLeast { must: 0.50, aim: 0.70 },
    ),
    target(
        5,
        "call, 256 callers, 10 kB, structures",
        of("bus.rpc.items", 256, 10_000),
        of(BEST, 256, 10_000),
        Figure::Rate,
        AtLeast { must: 0.30, aim: 0.45 },
    ),
    target(
        9,
        "call in memory, 1 caller",
        of("bus.memory.rpc", 1, 100),
        of("memory.rpc.mpsc+spawn+oneshot", 1, 100),
        Figure::P50,
        AtMost { must: 3.0, aim: 2.0 },
    ),
    target(
        9,
        "call in memory, 256 callers",
        of("bus.memory.rpc", 256, 100),
        of("memory.rpc.mpsc+spawn+oneshot", 256, 100),
        Figure::Rate,
        AtLeast { must: 1.0 / 3.0, aim: 0.5 },
    ),
    target(
        10,
        "call in memory, 256 callers, structures",
        of("bus.memory.rpc.items", 256, 100),
        of("memory.rpc.json+spawn", 256, 100),
        Figure::Rate,
        AtLeast { must: 0.60, aim: 0.80 },
    ),
    target(
        10,
        "call in memory, 256 callers, structures of 10 kB",
        of("bus.memory.rpc.items", 256, 10_000),
        of("memory.rpc.json+spawn", 256, 10_000),
        Figure::Rate,
        AtLeast { must: 0.60, aim: 0.80 },
    ),
    target(
        11,
        "event to 10 listeners in memory",
        of("bus.memory.events10", 1, 100),
        of("memory.event.mpsc-each.fanout10", 1, 100),
        Figure::Rate,
        AtLeast { must: 0.25, aim: 0.5 },
    ),
    target(
        12,
        "fire, 1 caller",
        of("bus.fire.one-task", 1, 100),
        of(XADD, 1, 100),
        Figure::P50,
        AtMost { must: 1.0 / 0.85, aim: 1.0 / 0.95 },
    ),
    target(
        12,
        "fire, 256 callers in one task",
        of("bus.fire.one-task", 256, 100),
        of(XADD, 256, 100),
        Figure::Rate,
        AtLeast { must: 0.60, aim: 0.80 },
    ),
    target(
        12,
        "fire, 256 callers, a task each",
        of("bus.fire.task-each", 256, 100),
        of(XADD, 256, 100),
        Figure::Rate,
        AtLeast { must: 0.60, aim: 0.80 },
    ),
    target(
        13,
        "handle a backlog",
        of("bus.consume", 1, 100),
        of(CONSUME, 1, 100),
        Figure::Rate,
        AtLeast { must: 0.45, aim: 0.65 },
    ),
    target(
        13,
        "handle a backlog, 10 kB",
        of("bus.consume", 1, 10_000),
        of(CONSUME, 1, 10_000),
        Figure::Rate,
        AtLeast { must: 0.45, aim: 0.65 },
    ),
    target(
        14,
        "from firing to the handler",
        of("bus.latency", 1, 100),
        of("redis.event.latency", 1, 100),
        Figure::P50,
        AtMost { must: 1.6, aim: 1.2 },
    ),
    target(
        15,
        "call on RabbitMQ, 256 callers",
        of("bus.rpc", 256, 100),
        of(AMQP_RPC, 256, 100),
        Figure::Rate,
        AtLeast { must: 0.80, aim: 0.90 },
    ),
    target(
        16,
        "fire on RabbitMQ, 256 callers",
        of("bus.fire.one-task", 256, 100),
        of(AMQP_FIRE, 256, 100),
        Figure::Rate,
        AtLeast { must: 0.80, aim: 0.90 },
    ),
    target(
        16,
        "consume on RabbitMQ",
        of("bus.consume", 1, 100),
        of(AMQP_CONSUME, 1, 100),
        Figure::Rate,
        AtLeast { must: 0.70, aim: 0.85 },
    ),
    target(
        17,
        "fire on Kafka, 256 callers",
        of("bus.fire.one-task", 256, 100),
        of(KAFKA_FIRE, 256, 100),
        Figure::Rate,
        AtLeast { must: 0.60, aim: 0.75 },
    ),
    target(
        17,
        "consume on Kafka",
        of("bus.consume", 1, 100),
        of(KAFKA_CONSUME, 1, 100),
        Figure::Rate,
        AtLeast { must: 0.60, aim: 0.75 },
    ),
    target(
        17,
        "call on Kafka, 256 callers, committed first by both",
        of("bus.rpc", 256, 100),
        of(KAFKA_RPC_COMMIT, 256, 100),
        Figure::Rate,
        AtLeast { must: 0.70, aim: 0.75 },
    ),
    target(
        17,
        "call on Kafka, 256 callers, the client alone commits nothing",
        of("bus.rpc", 256, 100),
        of(KAFKA_RPC, 256, 100),
        Figure::Rate,
        AtLeast { must: 0.70, aim: 0.75 },
    ),
    target(
        18,
        "call with validation, 256 callers, text",
        of("bus.rpc.validate", 256, 100),
        of("bus.rpc", 256, 100),
        Figure::Rate,
        AtLeast { must: 0.65, aim: 0.80 },
    ),
    target(
        18,
        "call with validation, 256 callers, structures",
        of("bus.rpc.items.validate", 256, 100),
        of("bus.rpc.items", 256, 100),
        Figure::Rate,
        AtLeast { must: 0.65, aim: 0.80 },
    ),
    target(
        18,
        "call with validation, 256 callers, 10 kB, structures",
        of("bus.rpc.items.validate", 256, 10_000),
        of("bus.rpc.items", 256, 10_000),
        Figure::Rate,
        AtLeast { must: 0.65, aim: 0.80 },
    ),
];

impl Figure {
    fn of(self, measurement: &Measurement) -> f64 {
        match self {
            Self::Rate => measurement.ops_per_s,
            Self::P50 => measurement.p50_us,
            Self::Cpu => measurement.cpu_us_per_op.total(),
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Rate => format!("{value:.0}/s"),
            Self::P50 => format!("{value:.2} µs"),
            Self::Cpu => format!("{value:.1} µs CPU"),
        }
    }
}

impl Ratio {
    fn verdict(self, ratio: f64) -> &'static str {
        let (must, aim) = match self {
            AtLeast { must, aim } => (ratio >= must, ratio >= aim),
            AtMost { must, aim } => (ratio <= must, ratio <= aim),
        };
        match (must, aim) {
            (_, true) => "aim reached",
            (true, false) => "reached",
            (false, _) => "MISSED",
        }
    }

    fn show(self) -> String {
        match self {
            AtLeast { must, aim } => format!("≥ {must:.2} ({aim:.2})"),
            AtMost { must, aim } => format!("≤ {must:.2} ({aim:.2})"),
        }
    }
}

/// The median of a figure over the rounds, and over how many. Disturbed rounds are left out where
/// two others remain.
fn median(measurements: &[Measurement], of: Of, figure: Figure) -> Option<f64> {
    let all: Vec<&Measurement> = measurements
        .iter()
        .filter(|m| m.name == of.name && m.callers == of.callers && m.bytes == of.bytes)
        .collect();
    let calm: Vec<&Measurement> = all
        .iter()
        .copied()
        .filter(|m| m.other_cores.is_none_or(|cores| cores <= DISTURBED))
        .collect();
    let kept = if calm.len() >= 2 { calm } else { all };
    let mut values: Vec<f64> = kept.into_iter().map(|m| figure.of(m)).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        n if n.is_multiple_of(2) => Some(f64::midpoint(values[middle - 1], values[middle])),
        _ => Some(values[middle]),
    }
}

/// A table of the targets that were measured.
pub(crate) fn table(measurements: &[Measurement]) -> String {
    let mut rows =
        vec![["", "", "bus", "compared with", "ratio", "must (aim)", ""].map(String::from)];
    for target in TARGETS {
        let figure = target.figure;
        let bus = median(measurements, target.bus, figure);
        let with = median(measurements, target.with, figure);
        let (Some(bus), Some(with)) = (bus, with) else {
            continue;
        };
        let ratio = bus / with;
        rows.push([
            target.number.to_string(),
            target.what.to_owned(),
            figure.show(bus),
            format!("{} {}", figure.show(with), target.with.name),
            format!("{ratio:.2}"),
            target.ratio.show(),
            target.ratio.verdict(ratio).to_owned(),
        ]);
    }
    let mut text = aligned(&rows);
    let disturbed = measurements.iter().filter(|m| m.other_cores.is_some_and(|c| c > DISTURBED));
    let rounds = measurements.iter().map(|m| m.round + 1).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "Medians of {rounds} rounds; {} of {} measurements were disturbed by other processes.",
        disturbed.count(),
        measurements.len(),
    );
    if rounds < 3 {
        text.push_str("Fewer than 3 rounds say little, fewer than 5 about a single caller.\n");
    }
    for connections in measurements.iter().filter_map(|m| m.connections.map(|n| (m, n))) {
        let (measurement, count) = connections;
        let _ = writeln!(
            text,
            "{}, round {}: the client had {count} connections to the broker.",
            measurement.name, measurement.round
        );
    }
    text
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use lightbus_bench_raw::CpuPerOp;

    use super::*;

    fn measured(name: &str, ops_per_s: f64, other_cores: f64) -> Measurement {
        Measurement {
            name: name.into(),
            callers: 256,
            bytes: 100,
            ops_per_s,
            p50_us: 1.0,
            p99_us: 1.0,
            cpu_us_per_op: CpuPerOp::default(),
            other_cores: Some(other_cores),
            connections: None,
            threads: None,
            seconds: 3.0,
            round: 0,
        }
    }

    #[test]
    fn medians_leave_out_disturbed_rounds_where_two_others_remain() {
        let rates = |values: &[(f64, f64)]| {
            let all: Vec<_> =
                values.iter().map(|&(rate, cores)| measured("x", rate, cores)).collect();
            median(&all, of("x", 256, 100), Figure::Rate)
        };
        assert_eq!(rates(&[]), None);
        assert_eq!(rates(&[(3.0, 0.0), (1.0, 0.0), (2.0, 0.0)]), Some(2.0));
        assert_eq!(rates(&[(3.0, 0.9), (1.0, 0.0), (2.0, 0.0)]), Some(1.5));
        assert_eq!(rates(&[(3.0, 0.9), (1.0, 0.9), (2.0, 0.0)]), Some(2.0));
    }

    #[test]
    fn the_table_has_what_was_measured_and_says_whether_it_will_do() {
        let table = table(&[
            measured("bus.rpc", 70.0, 0.0),
            measured(BEST, 100.0, 0.0),
            measured("bus.rpc.validate", 10.0, 0.0),
        ]);
        let row = |number: &str| table.lines().find(|line| line.starts_with(number));
        assert!(
            row("1 ").is_some_and(|row| row.contains("0.70") && row.ends_with("  reached")),
            "{table}"
        );
        assert!(row("18 ").is_some_and(|row| row.ends_with("MISSED")), "{table}");
        assert!(row("2 ").is_none(), "{table}");
    }
}
