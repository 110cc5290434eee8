//! In which order to measure: what is compared, side by side.

use lightbus_bench_raw::{Case, Options};

use crate::fire::Tasks;
use crate::rpc::Arguments::{Items, Text};
use crate::suite::BusCase;
use crate::suite::Validation::{Off, On};

/// A measurement of either side.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Raw(Case),
    Bus(BusCase),
}

use Side::{Bus, Raw};

/// One measurement of a round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) side: Side,
    pub(crate) callers: usize,
    pub(crate) bytes: usize,
}

/// What belongs together.
const GROUPS: [&[Side]; 7] = [
    &[
        Raw(Case::RedisRpcNaive),
        Raw(Case::RedisRpcBatch),
        Raw(Case::AmqpRpc(false)),
        Raw(Case::AmqpRpc(true)),
        Raw(Case::KafkaRpc(false)),
        Raw(Case::KafkaRpc(true)),
        Bus(BusCase::Rpc(Text, Off)),
        Bus(BusCase::Rpc(Text, On)),
        Bus(BusCase::Rpc(Items, Off)),
        Bus(BusCase::Rpc(Items, On)),
    ],
    &[Bus(BusCase::RpcMany)],
    &[
        Raw(Case::RedisEventXadd),
        Raw(Case::AmqpEventPublish),
        Raw(Case::KafkaEventProduce),
        Bus(BusCase::Fire(Tasks::One)),
        Bus(BusCase::Fire(Tasks::Each)),
    ],
    &[
        Raw(Case::RedisEventConsume(100)),
        Raw(Case::RedisEventConsume(1000)),
        Raw(Case::AmqpEventConsume),
        Raw(Case::KafkaEventConsume),
        Bus(BusCase::Consume),
    ],
    &[Raw(Case::RedisEventLatency), Bus(BusCase::Latency)],
    &[
        Raw(Case::MemoryRpc),
        Raw(Case::MemoryRpcSpawn),
        Bus(BusCase::MemoryRpc(Text)),
        Raw(Case::MemoryRpcJson),
        Bus(BusCase::MemoryRpc(Items)),
    ],
    &[Raw(Case::MemoryEventFanout), Bus(BusCase::MemoryEvents)],
];

impl Side {
    pub(crate) fn name(self) -> String {
        match self {
            Raw(case) => case.name(),
            Bus(case) => case.name().to_owned(),
        }
    }

    fn takes(self, callers: usize, bytes: usize, options: &Options) -> bool {
        let (all_callers, all_bytes) = self.parameters(options);
        all_callers.contains(&callers) && all_bytes.contains(&bytes)
    }

    fn parameters(self, options: &Options) -> (&[usize], &[usize]) {
        match self {
            Raw(case) => (case.callers(&options.callers), case.bytes(&options.bytes)),
            Bus(case) => (case.callers(&options.callers), case.bytes(&options.bytes)),
        }
    }
}

/// Where the measurements take place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Brokers {
    /// Whether the bus has one that other processes reach.
    pub(crate) shared: bool,
    /// Whether it is Redis, so that there is something to compare with.
    pub(crate) redis: bool,
    /// Whether it is RabbitMQ, likewise.
    pub(crate) amqp: bool,
    /// Whether it is Kafka, likewise.
    pub(crate) kafka: bool,
}

/// The measurements of a round, in order.
pub(crate) fn steps(options: &Options, brokers: Brokers) -> Vec<Step> {
    let possible = |side: &Side| match side {
        Raw(case) => match case.name().split('.').next() {
            Some("redis") => brokers.redis,
            Some("amqp") => brokers.amqp,
            Some("kafka") => brokers.kafka,
            _ => true,
        },
        Bus(case) => brokers.shared || !case.needs_broker(),
    };
    let mut steps = Vec::new();
    for group in GROUPS {
        let group = group.iter().copied().filter(possible);
        let group: Vec<Side> = group.filter(|side| options.wants(&side.name())).collect();
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for side in &group {
            let (callers, bytes) = side.parameters(options);
            for &bytes in bytes {
                pairs.extend(callers.iter().map(|&callers| (bytes, callers)));
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        for (bytes, callers) in pairs {
            let sides = group.iter().filter(|side| side.takes(callers, bytes, options));
            steps.extend(sides.map(|&side| Step { side, callers, bytes }));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn all_is_measured_and_without_a_broker_only_memory() {
        let options =
            Cli::parse_from(["bench", "--amqp", "amqp://somewhere", "--kafka", "somewhere"])
                .options;
        let names = |shared, redis| -> Vec<String> {
            let steps = steps(&options, Brokers { shared, redis, amqp: redis, kafka: redis });
            steps.iter().map(|step| step.side.name()).collect()
        };
        let all = names(true, true);
        for case in Case::ALL {
            assert!(all.contains(&case.name()), "{} is missing", case.name());
        }
        for case in BusCase::ALL {
            assert!(all.iter().any(|name| name == case.name()), "{} is missing", case.name());
        }
        assert!(names(false, false).iter().all(|name| name.contains("memory.")));
        assert!(
            names(true, false)
                .iter()
                .all(|name| ["redis.", "amqp.", "kafka."].iter().all(|of| !name.starts_with(of)))
        );
    }
}
