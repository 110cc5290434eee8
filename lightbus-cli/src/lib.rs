//! The tool `lightbus`: calls, fires, listens and looks at a bus from a terminal or a script.

mod arguments;
mod bench;
mod call;
mod cli;
mod complete;
mod config;
mod connect;
mod dlq;
mod doctor;
mod explain;
mod failure;
mod fire;
mod inspect;
mod listen;
mod moment;
mod output;
mod retry;
mod schema;
mod shell;
mod top;
mod validate;

use std::process::ExitCode;

use clap::Parser;
use lightbus::Registry;

use cli::{Cli, Command};
use failure::{Failure, INTERRUPTED};

/// Runs the tool with the arguments of this process.
pub fn main(registry: Registry) -> ExitCode {
    let _ = registry;
    // Wrong usage ends here, with 2 and what would be right.
    let cli = Cli::parse();
    let json = cli.global.json;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(json),
    };
    let done = runtime.block_on(run(cli));
    // A read of standard input that waits for more must not keep the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(json),
    }
}

/// Runs one command. Ctrl-C drops it, unless the command ends by itself in order.
async fn run(cli: Cli) -> Result<(), Failure> {
    let global = cli.global;
    match cli.command {
        // Ends by itself when it is interrupted: what was printed is acknowledged.
        Command::Listen(listen) => listen::run(&global, listen).await,
        // Gives the terminal back, and leaves nothing on the broker.
        Command::Top(top) => top::run(&global, top).await,
        // Ctrl-C clears its line, or ends the command that it runs.
        Command::Shell => shell::run(&global).await,
        command => {
            // To follow ends with Ctrl-C, and so in order.
            let follows = matches!(&command, Command::Inspect(inspect) if inspect.follow);
            let work = async {
                match command {
                    Command::Call(call) => call::run(&global, call).await,
                    Command::Fire(fire) => fire::run(&global, fire).await,
                    Command::Inspect(inspect) => {
                        inspect::run(&global, inspect).await.map_err(inspect::explain)
                    }
                    Command::Explain(explain) => explain::run(&global, explain).await,
                    Command::Dlq { command } => dlq::run(&global, command).await,
                    Command::Doctor => doctor::run(&global).await,
                    Command::Bench(bench) => bench::run(&global, bench).await,
                    Command::Schema { command } => schema::run(&global, command).await,
                    Command::Config { command } => config::run(&global, &command),
                    Command::Completions { shell } => complete::completions(shell),
                    Command::Man { folder } => complete::man_pages(&folder),
                    Command::Version => output::version(&global),
                    Command::Listen(_) | Command::Shell | Command::Top(_) => Ok(()),
                }
            };
            let interrupted = Failure::Quiet(if follows { 0 } else { INTERRUPTED });
            tokio::select! {
                done = work => done,
                _ = tokio::signal::ctrl_c() => Err(interrupted),
            }
        }
    }
}
