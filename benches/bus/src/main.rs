//! Measures the bus, in turns with what its broker's client does without a bus; each measurement is
//! printed as a line of JSON.

mod compare;
mod consume;
mod contract;
mod fire;
mod latency;
mod memory;
mod place;
mod plan;
mod rpc;
mod suite;

use std::process::ExitCode;

use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use lightbus_bench_raw::{Measurement, Options, Result};

use place::Place;
use plan::{Brokers, Side, Step};

/// Measures the bus, in turns with what its broker's client does without a bus.
///
/// Prints a line of JSON for each measurement. On Redis it deletes all keys that begin with
/// `bench.` or `bench:`.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    place: Place,
    /// In the end, print to standard error how the bus compares, and with which targets.
    #[arg(long)]
    compare: bool,
    /// Print the names of the measurements and measure nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Subcommand)]
enum Command {
    /// The other process of a measurement without a bus, which starts it itself.
    #[command(hide = true)]
    Serve(lightbus_bench_raw::Serve),
    /// The other process of a measurement of the bus, which starts it itself.
    #[command(hide = true)]
    ServeBus(suite::Serve),
}

fn main() -> ExitCode {
    let matches = Cli::command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let redis = matches.value_source("redis") == Some(ValueSource::CommandLine);
    let (name, done) = match cli.command {
        Some(Command::Serve(serve)) => {
            (serve.name.clone(), lightbus_bench_raw::suite::serve(&serve))
        }
        Some(Command::ServeBus(serve)) => (serve.name.clone(), suite::serve(serve)),
        None => ("measuring".into(), measure(cli, redis)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Goes through all measurements round by round, so that what disturbs the machine for a while
/// does not fall on all rounds of one of them.
fn measure(cli: Cli, redis_is_given: bool) -> Result<()> {
    let Cli { mut options, mut place, compare, list, .. } = cli;
    if redis_is_given {
        if place.config.is_some() {
            return Err("either --config or --redis: they name the same thing".into());
        }
        place.redis = Some(options.redis.clone());
    }
    if let Some(url) = &options.amqp {
        if redis_is_given || place.config.is_some() {
            return Err("either --amqp, --redis or --config: they name the same thing".into());
        }
        place.amqp = Some(url.clone());
    }
    if let Some(brokers) = &options.kafka {
        if place.is_shared() {
            return Err(
                "either --kafka, --amqp, --redis or --config: they name the same thing".into()
            );
        }
        place.kafka = Some(brokers.clone());
    }
    let place = place.or_from_env();
    let redis = place.redis()?;
    let brokers = Brokers {
        shared: place.is_shared(),
        redis: redis.is_some(),
        amqp: options.amqp.is_some(),
        kafka: options.kafka.is_some(),
    };
    if let Some(url) = redis {
        options.redis = url;
    }
    let steps = plan::steps(&options, brokers);
    if list {
        steps.iter().for_each(|Step { side, callers, bytes }| {
            println!("{}, {callers} callers, {bytes} bytes", side.name());
        });
        return Ok(());
    }
    if !brokers.shared {
        eprintln!("in memory only: --redis or --config names a broker");
    }
    let mut measurements: Vec<Measurement> = Vec::new();
    let mut failures = 0;
    for round in 0..options.rounds {
        for step in &steps {
            match step.run(&options, &place, round) {
                Ok(measurement) => {
                    println!("{}", measurement.to_line());
                    measurements.push(measurement);
                }
                Err(error) => {
                    let Step { side, callers, bytes } = step;
                    eprintln!("{}, {callers} callers, {bytes} bytes: {error}", side.name());
                    failures += 1;
                }
            }
        }
    }
    if compare {
        eprint!("{}", compare::table(&measurements));
    }
    if failures == 0 { Ok(()) } else { Err(format!("{failures} measurements failed").into()) }
}

impl Step {
    fn run(&self, options: &Options, place: &Place, round: usize) -> Result<Measurement> {
        match self.side {
            Side::Raw(case) => case.run(options, self.callers, self.bytes, round),
            Side::Bus(case) => case.run(options, place, self.callers, self.bytes, round),
        }
    }
}
