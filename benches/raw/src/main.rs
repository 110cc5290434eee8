//! Measures brokers' clients without a bus; each measurement is printed as a line of JSON.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lightbus_bench_raw::suite::{self, Case};
use lightbus_bench_raw::{Options, Serve};

/// Measures brokers' clients sending the commands that lightbus sends, and nothing else.
///
/// Prints a line of JSON for each measurement.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
    /// Print the names of the measurements and measure nothing.
    #[arg(long)]
    list: bool,
}

#[derive(Subcommand)]
enum Command {
    /// The other process of a measurement, which starts it itself.
    #[command(hide = true)]
    Serve(Serve),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        Some(Command::Serve(serve)) => match suite::serve(&serve) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("serving {}: {error}", serve.name);
                ExitCode::FAILURE
            }
        },
        None if cli.list => {
            wanted(&cli.options).for_each(|case| println!("{}", case.name()));
            ExitCode::SUCCESS
        }
        None => measure(&cli.options),
    }
}

fn wanted(options: &Options) -> impl Iterator<Item = Case> {
    Case::ALL.into_iter().filter(|case| options.wants(&case.name()))
}

/// Goes through all measurements round by round, so that what disturbs the machine for a while
/// does not fall on all rounds of one of them.
fn measure(options: &Options) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for round in 0..options.rounds {
        for case in wanted(options) {
            for &bytes in case.bytes(&options.bytes) {
                for &callers in case.callers(&options.callers) {
                    match case.run(options, callers, bytes, round) {
                        Ok(measurement) => println!("{}", measurement.to_line()),
                        Err(error) => {
                            eprintln!("{}, {callers} callers, {bytes} bytes: {error}", case.name());
                            code = ExitCode::FAILURE;
                        }
                    }
                }
            }
        }
    }
    code
}
