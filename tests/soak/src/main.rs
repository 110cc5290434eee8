//! The soak: three processes of one listener and a worker, handlers of mixed speed, random SIGKILLs,
//! one event that kills its process, and one dependency that goes away. See `scripts/soak`.
//!
//! | file | is |
//! | --- | --- |
//! | `contract` | the API that is soaked |
//! | `child` | a process that listens or works |
//! | `fleet` | the children: started, killed, started again, their memory and health watched |
//! | `journal` | what was fired and what was handled, as lines of files that outlive a SIGKILL |
//! | `plan` | when what happens |
//! | `report` | what must hold at the end |

mod child;
mod contract;
mod fleet;
mod journal;
mod plan;
mod report;
mod soak;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Hours of faults with nothing lost.
#[derive(Debug, Parser)]
#[command(about, long_about = None)]
pub(crate) struct Options {
    /// The configuration file of the bus: the broker that is soaked.
    #[arg(long)]
    config: String,
    /// Where journals are kept.
    #[arg(long)]
    folder: PathBuf,
    /// How long events are fired.
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Events fired in a second.
    #[arg(long, default_value_t = 25.0)]
    rate: f64,
    /// Decides who is killed when. Printed, to be repeated.
    #[arg(long)]
    seed: Option<u64>,
    /// Begins this process as one of the fleet: its number.
    #[arg(long, hide = true)]
    child: Option<usize>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let options = Options::parse();
    match options.child {
        Some(number) => child::run(&options, number).await.map(|()| ExitCode::SUCCESS),
        None => soak::run(&options).await,
    }
}
