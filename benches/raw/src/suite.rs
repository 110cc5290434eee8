//! The measurements of this package.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::amqp::{self, AmqpSite};
use crate::kafka::{self, KafkaSite};
use crate::options::runtime;
use crate::redis_rpc::{batch, naive};
use crate::{Broker, Label, Load, Measurement, Options, Outcome, Peer, Processes, Result, Serve};
use crate::{memory_event, memory_rpc, redis_event};

/// A measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Case {
    /// A blocking connection for each call, a server that takes one call at a time.
    RedisRpcNaive,
    /// The most that the client gives: calls, results and expiry checks all in batches.
    RedisRpcBatch,
    /// `XADD`, all callers on one connection.
    RedisEventXadd,
    /// Reading in a group, this many at a time, acknowledging along with the next read.
    RedisEventConsume(usize),
    /// From firing to receipt, at a steady rate well below the limit.
    RedisEventLatency,
    /// Calls with direct reply-to, confirmed or not; the server acknowledges.
    AmqpRpc(bool),
    /// Publishing into a quorum queue, confirmed.
    AmqpEventPublish,
    /// Consuming from a quorum queue, acknowledging a hundred at a time.
    AmqpEventConsume,
    /// Calls over two topics, committed before they run or never.
    KafkaRpc(bool),
    /// Sending records, confirmed by all copies.
    KafkaEventProduce,
    /// Consuming in a group, a commit for each hundred.
    KafkaEventConsume,
    /// A channel to a serving task, a oneshot back.
    MemoryRpc,
    /// The same with a task for each call.
    MemoryRpcSpawn,
    /// The same with call and result as JSON, structured arguments.
    MemoryRpcJson,
    /// An event to ten listeners, each with a channel of its own; an operation is a delivery.
    MemoryEventFanout,
}

/// Where a measurement on Redis takes place.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) broker: Broker,
    /// What the names of all keys begin with.
    pub(crate) prefix: String,
    pub(crate) bytes: usize,
}

impl Site {
    async fn of(serve: &Serve) -> Result<Self> {
        Ok(Self {
            broker: Broker::open(&serve.redis).await?,
            prefix: serve.prefix.clone(),
            bytes: serve.bytes,
        })
    }

    /// A key of this measurement.
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.prefix)
    }

    /// The processes that take part.
    pub(crate) fn processes(&self, peer: Option<&Peer>) -> Processes {
        Processes {
            server: peer.map(Peer::pid),
            broker: self.broker.pid(),
            ..Processes::of_client()
        }
    }
}

impl Case {
    /// All measurements.
    pub const ALL: [Self; 18] = [
        Self::RedisRpcNaive,
        Self::RedisRpcBatch,
        Self::RedisEventXadd,
        Self::RedisEventConsume(100),
        Self::RedisEventConsume(1000),
        Self::RedisEventLatency,
        Self::AmqpRpc(false),
        Self::AmqpRpc(true),
        Self::AmqpEventPublish,
        Self::AmqpEventConsume,
        Self::KafkaRpc(false),
        Self::KafkaRpc(true),
        Self::KafkaEventProduce,
        Self::KafkaEventConsume,
        Self::MemoryRpc,
        Self::MemoryRpcSpawn,
        Self::MemoryRpcJson,
        Self::MemoryEventFanout,
    ];

    /// The name in the record.
    pub fn name(self) -> String {
        match self {
            Self::RedisRpcNaive => "redis.rpc.naive".into(),
            Self::RedisRpcBatch => "redis.rpc.shared-batch+batch-server".into(),
            Self::RedisEventXadd => "redis.event.xadd.mux".into(),
            Self::RedisEventConsume(count) => {
                format!("redis.event.consume.count{count}.ack+read-pipelined")
            }
            Self::RedisEventLatency => "redis.event.latency".into(),
            Self::AmqpRpc(false) => "amqp.rpc.reply-to.ack".into(),
            Self::AmqpRpc(true) => "amqp.rpc.reply-to.ack+confirm".into(),
            Self::AmqpEventPublish => "amqp.event.publish.quorum.confirm".into(),
            Self::AmqpEventConsume => "amqp.event.consume.quorum.multiple100".into(),
            Self::KafkaRpc(false) => "kafka.rpc.two-topics".into(),
            Self::KafkaRpc(true) => "kafka.rpc.two-topics.commit-first".into(),
            Self::KafkaEventProduce => "kafka.event.produce.acks-all".into(),
            Self::KafkaEventConsume => "kafka.event.consume.commit100".into(),
            Self::MemoryRpc => "memory.rpc.mpsc+oneshot".into(),
            Self::MemoryRpcSpawn => "memory.rpc.mpsc+spawn+oneshot".into(),
            Self::MemoryRpcJson => "memory.rpc.json+spawn".into(),
            Self::MemoryEventFanout => "memory.event.mpsc-each.fanout10".into(),
        }
    }

    /// The measurement of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|case| case.name() == name)
    }

    /// Those of these numbers of callers to measure with: just one caller where more make no
    /// sense.
    pub fn callers(self, asked: &[usize]) -> &[usize] {
        match self {
            Self::RedisEventConsume(_)
            | Self::RedisEventLatency
            | Self::AmqpEventConsume
            | Self::KafkaEventConsume
            | Self::MemoryEventFanout => &[1],
            _ => asked,
        }
    }

    /// Those of these payload sizes to measure with: only the first where payload is not copied.
    pub fn bytes(self, asked: &[usize]) -> &[usize] {
        match self {
            Self::MemoryRpc | Self::MemoryRpcSpawn | Self::MemoryEventFanout => {
                &asked[..asked.len().min(1)]
            }
            _ => asked,
        }
    }

    /// Measures once, on a runtime of its own. Must not be called from within a runtime.
    ///
    /// Where the measurement takes a second process, this executable is started with the
    /// arguments of a [`Serve`], which it has to hand to [`serve`].
    pub fn run(
        self,
        options: &Options,
        callers: usize,
        bytes: usize,
        round: usize,
    ) -> Result<Measurement> {
        let serve = Serve {
            name: self.name(),
            redis: options.redis.clone(),
            amqp: options.amqp.clone(),
            kafka: options.kafka.clone(),
            prefix: unique_prefix(),
            bytes,
            threads: options.threads,
        };
        let outcome =
            runtime(options.threads)?.block_on(self.measure(&serve, callers, options.load()))?;
        let label = Label { name: self.name(), callers, bytes, threads: options.threads, round };
        Ok(outcome.measurement(label))
    }

    async fn measure(self, serve: &Serve, callers: usize, load: Load) -> Result<Outcome> {
        match self {
            Self::RedisRpcNaive => {
                let (site, peer) = (Site::of(serve).await?, Peer::start(serve.args())?);
                naive::measure(&site, &peer, callers, load).await
            }
            Self::RedisRpcBatch => {
                let (site, peer) = (Site::of(serve).await?, Peer::start(serve.args())?);
                batch::measure(&site, &peer, callers, load).await
            }
            Self::RedisEventXadd => {
                redis_event::fire::measure(&Site::of(serve).await?, callers, load).await
            }
            Self::RedisEventConsume(count) => {
                redis_event::consume::measure(&Site::of(serve).await?, count, load).await
            }
            Self::RedisEventLatency => {
                redis_event::latency::measure(
                    &Site::of(serve).await?,
                    || Peer::start(serve.args()),
                    load,
                )
                .await
            }
            Self::AmqpRpc(confirmed) => {
                let (site, peer) = (AmqpSite::of(serve)?, Peer::start(serve.args())?);
                amqp::rpc::measure(&site, &peer, confirmed, callers, load).await
            }
            Self::AmqpEventPublish => {
                amqp::fire::measure(&AmqpSite::of(serve)?, callers, load).await
            }
            Self::AmqpEventConsume => amqp::consume::measure(&AmqpSite::of(serve)?).await,
            Self::KafkaRpc(_) => {
                let start = || Peer::start(serve.args());
                kafka::rpc::measure(&KafkaSite::of(serve)?, start, callers, load).await
            }
            Self::KafkaEventProduce => {
                kafka::fire::measure(&KafkaSite::of(serve)?, callers, load).await
            }
            Self::KafkaEventConsume => kafka::consume::measure(&KafkaSite::of(serve)?).await,
            Self::MemoryRpc => memory_rpc::measure_inline(callers, serve.bytes, load).await,
            Self::MemoryRpcSpawn => memory_rpc::measure_spawn(callers, serve.bytes, load).await,
            Self::MemoryRpcJson => memory_rpc::measure_json(callers, serve.bytes, load).await,
            Self::MemoryEventFanout => memory_event::measure(serve.bytes, load).await,
        }
    }
}

/// The other process of a measurement; ends only by failing, or with the process.
pub fn serve(serve: &Serve) -> Result<()> {
    let case =
        Case::from_name(&serve.name).ok_or_else(|| format!("no measurement {}", serve.name))?;
    if let Case::KafkaRpc(commits) = case {
        return kafka::rpc::serve(&KafkaSite::of(serve)?, commits);
    }
    runtime(serve.threads)?.block_on(async {
        if matches!(case, Case::AmqpRpc(_)) {
            let site = AmqpSite::of(serve)?;
            return tokio::spawn(async move { amqp::rpc::serve(&site).await }).await?;
        }
        let site = Site::of(serve).await?;
        // In a task, as on a multi-threaded runtime what is blocked on runs beside the workers.
        tokio::spawn(async move {
            match case {
                Case::RedisRpcNaive => naive::serve(&site).await,
                Case::RedisRpcBatch => batch::serve(&site).await,
                Case::RedisEventLatency => redis_event::latency::fire(&site).await,
                _ => Err(format!("{} has no second process", case.name()).into()),
            }
        })
        .await?
    })
}

fn unique_prefix() -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("bench-raw-{}-{nanos:x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_found_by_its_name() {
        for case in Case::ALL {
            assert_eq!(Case::from_name(&case.name()), Some(case));
        }
    }
}
