//! The measurements of the bus.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use lightbus::Bus;
use lightbus_bench_raw::options::runtime;
use lightbus_bench_raw::{Label, Measurement, Options, Outcome, Peer, Result};

use crate::fire::Tasks;
use crate::place::{Beneath, Place};
use crate::rpc::Arguments;
use crate::{consume, fire, latency, memory, rpc};

/// A measurement.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum BusCase {
    /// Calls to another process, with messages checked against schemas or not.
    Rpc(Arguments, Validation),
    /// The same with ten thousand callers at once.
    RpcMany,
    /// Firing.
    Fire(Tasks),
    /// Handling a backlog.
    Consume,
    /// From firing to the handler, at a steady rate well below the limit.
    Latency,
    /// Calls within the process.
    MemoryRpc(Arguments),
    /// An event to ten listeners within the process; an operation is a delivery.
    MemoryEvents,
}

/// Whether messages are checked against schemas, in both processes and both directions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Validation {
    /// They are not: what other measurements compare with.
    Off,
    /// They are, as by default.
    On,
}

/// What the other process of a measurement is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct Serve {
    /// The name of the measurement.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) place: Place,
    /// A Redis to use with default options, instead of a configuration.
    #[arg(long)]
    pub(crate) redis: Option<String>,
    /// A RabbitMQ to use with default options, instead of a configuration.
    #[arg(long)]
    pub(crate) amqp: Option<String>,
    /// Kafka brokers to use with default options, instead of a configuration.
    #[arg(long)]
    pub(crate) kafka: Option<String>,
    /// The name of the service on the bus.
    #[arg(long)]
    pub(crate) service: String,
    /// Bytes of payload.
    #[arg(long)]
    pub(crate) bytes: usize,
    /// Runtime threads, as in [`Options::threads`].
    #[arg(long)]
    pub(crate) threads: Option<usize>,
}

/// Where a measurement takes place.
#[derive(Debug)]
pub(crate) struct Site {
    place: Place,
    pub(crate) beneath: Beneath,
    /// What begins the names of services: another one for each measurement, so that none meets
    /// what another left.
    pub(crate) service: String,
    pub(crate) bytes: usize,
    validation: Validation,
}

impl Site {
    /// A bus of the measurement's service.
    pub(crate) async fn bus(&self) -> Result<Bus> {
        self.bus_of(&self.service).await
    }

    /// Whether events that nobody has asked for are kept nowhere.
    pub(crate) fn keeps_only_for_listeners(&self) -> bool {
        self.place.amqp.is_some()
    }

    /// Deletes what the broker keeps for a listener that is not needed any more: it would get all
    /// events of the measurements that follow.
    pub(crate) async fn forget(&self, service: &str, listener: &str) -> Result<()> {
        let Some(url) = &self.place.amqp else { return Ok(()) };
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(url, properties).await?;
        let channel = connection.create_channel().await?;
        for queue in [format!("{service}-{listener}"), format!("{service}-{listener}.dead_letters")]
        {
            channel
                .queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default())
                .await?;
        }
        Ok(connection.close(200, "forgotten".into()).await?)
    }

    /// A bus of this service.
    pub(crate) async fn bus_of(&self, service: &str) -> Result<Bus> {
        Ok(self.place.bus(service, self.validation == Validation::On)?.connect().await?)
    }
}

impl BusCase {
    /// All measurements.
    pub(crate) const ALL: [Self; 12] = [
        Self::Rpc(Arguments::Text, Validation::Off),
        Self::Rpc(Arguments::Text, Validation::On),
        Self::Rpc(Arguments::Items, Validation::Off),
        Self::Rpc(Arguments::Items, Validation::On),
        Self::RpcMany,
        Self::Fire(Tasks::Each),
        Self::Fire(Tasks::One),
        Self::Consume,
        Self::Latency,
        Self::MemoryRpc(Arguments::Text),
        Self::MemoryRpc(Arguments::Items),
        Self::MemoryEvents,
    ];

    /// The name in the record.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rpc(Arguments::Text, Validation::Off) => "bus.rpc",
            Self::Rpc(Arguments::Text, Validation::On) => "bus.rpc.validate",
            Self::Rpc(Arguments::Items, Validation::Off) => "bus.rpc.items",
            Self::Rpc(Arguments::Items, Validation::On) => "bus.rpc.items.validate",
            Self::RpcMany => "bus.rpc.10000",
            Self::Fire(Tasks::Each) => "bus.fire.task-each",
            Self::Fire(Tasks::One) => "bus.fire.one-task",
            Self::Consume => "bus.consume",
            Self::Latency => "bus.latency",
            Self::MemoryRpc(Arguments::Text) => "bus.memory.rpc",
            Self::MemoryRpc(Arguments::Items) => "bus.memory.rpc.items",
            Self::MemoryEvents => "bus.memory.events10",
        }
    }

    /// The measurement of this name.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|case| case.name() == name)
    }

    /// Whether it takes a broker that other processes reach.
    pub(crate) fn needs_broker(self) -> bool {
        !matches!(self, Self::MemoryRpc(_) | Self::MemoryEvents)
    }

    /// Those of these numbers of callers to measure with: its own where it has one.
    pub(crate) fn callers(self, asked: &[usize]) -> &[usize] {
        match self {
            Self::RpcMany => &[10_000],
            Self::Consume | Self::Latency | Self::MemoryEvents => &[1],
            _ => asked,
        }
    }

    /// Those of these payload sizes to measure with: only the first where its size is beside the
    /// point.
    pub(crate) fn bytes(self, asked: &[usize]) -> &[usize] {
        match self {
            Self::RpcMany | Self::MemoryEvents => &asked[..asked.len().min(1)],
            _ => asked,
        }
    }

    /// Measures once, on a runtime of its own. Must not be called from within a runtime.
    ///
    /// Where the measurement takes a second process, this executable is started with the
    /// arguments of a [`Serve`], which it has to hand to [`serve`].
    pub(crate) fn run(
        self,
        options: &Options,
        place: &Place,
        callers: usize,
        bytes: usize,
        round: usize,
    ) -> Result<Measurement> {
        let threads = options.threads;
        let (outcome, connections) =
            runtime(threads)?.block_on(self.measure(options, place, callers, bytes))?;
        let label = Label { name: self.name().into(), callers, bytes, threads, round };
        Ok(Measurement { connections, ..outcome.measurement(label) })
    }

    async fn measure(
        self,
        options: &Options,
        place: &Place,
        callers: usize,
        bytes: usize,
    ) -> Result<(Outcome, Option<usize>)> {
        let load = options.load();
        match self {
            Self::MemoryRpc(arguments) => {
                return Ok((memory::measure_rpc(arguments, callers, bytes, load).await?, None));
            }
            Self::MemoryEvents => return Ok((memory::measure_events(bytes, load).await?, None)),
            _ => {}
        }
        let service = unique_service();
        let site = self.site(place, &service, bytes).await?;
        let start_peer = || {
            let mut args = vec![
                "serve-bus".into(),
                self.name().into(),
                format!("--service={service}"),
                format!("--bytes={bytes}"),
            ];
            args.extend(place.args());
            args.extend(options.threads.map(|threads| format!("--threads={threads}")));
            Peer::start(args)
        };
        let measured = match self {
            Self::Rpc(arguments, _) => {
                let (outcome, _) =
                    rpc::measure(&site, &start_peer()?, arguments, callers, load).await?;
                Ok((outcome, None))
            }
            Self::RpcMany => {
                rpc::measure(&site, &start_peer()?, Arguments::Text, callers, load).await
            }
            Self::Fire(tasks) => {
                fire::measure(&site, tasks, callers, load).await.map(|outcome| (outcome, None))
            }
            Self::Consume => consume::measure(&site).await.map(|outcome| (outcome, None)),
            Self::Latency => {
                latency::measure(&site, start_peer, load).await.map(|outcome| (outcome, None))
            }
            Self::MemoryRpc(_) | Self::MemoryEvents => unreachable!("measured above"),
        };
        site.beneath.tidy().await?;
        measured
    }

    async fn site(self, place: &Place, service: &str, bytes: usize) -> Result<Site> {
        let validation = match self {
            Self::Rpc(_, validation) => validation,
            _ => Validation::Off,
        };
        Ok(Site {
            place: place.clone(),
            beneath: Beneath::open(place).await?,
            service: service.to_owned(),
            bytes,
            validation,
        })
    }
}

/// The other process of a measurement; ends only by failing, or with the process.
pub(crate) fn serve(serve: Serve) -> Result<()> {
    let case =
        BusCase::from_name(&serve.name).ok_or_else(|| format!("no measurement {}", serve.name))?;
    runtime(serve.threads)?.block_on(async {
        let place =
            Place { redis: serve.redis, amqp: serve.amqp, kafka: serve.kafka, ..serve.place };
        let site = case.site(&place, &serve.service, serve.bytes).await?;
        // In a task, as on a multi-threaded runtime what is blocked on runs beside the workers.
        tokio::spawn(async move {
            match case {
                BusCase::Rpc(..) | BusCase::RpcMany => rpc::serve(&site).await,
                BusCase::Latency => latency::fire(&site).await,
                _ => Err(format!("{} has no second process", case.name()).into()),
            }
        })
        .await?
    })
}

fn unique_service() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    format!("bench-{}-{:x}", std::process::id(), since.map_or(0, |since| since.as_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_found_by_its_name() {
        for case in BusCase::ALL {
            assert_eq!(BusCase::from_name(case.name()), Some(case));
        }
    }
}
