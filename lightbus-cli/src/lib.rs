//! The command-line tool of lightbus, as a library: [`main`] runs it on the transports that a program
//! gives it.
//!
//! The binary `lightbus` of this crate has the transports that are compiled in. For a transport of your
//! own, build the tool with it:
//!
//! ```no_run
//! # mod pigeon { pub use lightbus::transport::memory::MemoryFactory as PigeonFactory; }
//! fn main() -> std::process::ExitCode {
//!     lightbus_cli::main(|| lightbus::registry().with(pigeon::PigeonFactory::default()))
//! }
//! ```
//!
//! The features of this crate are those of `lightbus` that add transports: `memory` and `redis` (on by
//! default), `redis-tls`, `redis-cluster`, `redis-sentinel`, `amqp`, `amqp-tls`, `kafka`, `kafka-tls`;
//! and `config-url`. Without any, the tool has only the transports that it is given.

mod arguments;
mod bench;
mod call;
mod cli;
mod complete;
mod config;
mod context;
mod dlq;
mod doctor;
mod explain;
mod failure;
mod fire;
mod inspect;
mod listen;
mod listeners;
mod output;
mod retry;
mod schema;
mod shell;
mod timestamp;
mod top;
mod validate;

use std::process::ExitCode;

use clap::Parser;
use lightbus::Registry;

use cli::{Cli, Command};
use context::Context;
use failure::{Failure, INTERRUPTED};

/// Runs the tool: reads the arguments of the process, runs one command, and returns its exit code.
///
/// `registry` returns the transports that a configuration may name. It is called for each bus that a
/// command connects, so that each has connections of its own, as buses in different processes have: the
/// two of `bench`, and those of the commands of a `shell`.
///
/// The tool takes over the process: it writes to standard output and standard error, and handles Ctrl-C.
/// Where the arguments make no sense, or ask for help, the process ends here, with 2 or 0. It starts a
/// runtime, so call it from `main`, and not from within async code.
pub fn main(registry: impl Fn() -> Registry + Send + Sync + 'static) -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let context = Context::new(global, registry);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(context.json),
    };
    let done = runtime.block_on(run(&context, command));
    // A read of standard input that waits for more must not keep the process.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(context.json),
    }
}

/// Runs one command. Ctrl-C drops it, unless the command handles Ctrl-C itself.
async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    let interrupted = match &command {
        // `listen` acknowledges what it printed, `top` restores the terminal and leaves nothing on the
        // broker, `shell` clears its line or ends the command that it runs.
        Command::Listen(_) | Command::Top(_) | Command::Shell => {
            return dispatch(context, command).await;
        }
        // Following ends with Ctrl-C, so that is success.
        Command::Inspect(inspect) if inspect.follow => Failure::Quiet(0),
        _ => Failure::Quiet(INTERRUPTED),
    };
    tokio::select! {
        done = dispatch(context, command) => done,
        _ = tokio::signal::ctrl_c() => Err(interrupted),
    }
}

async fn dispatch(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Call(call) => call::run(context, call).await,
        Command::Fire(fire) => fire::run(context, fire).await,
        Command::Listen(listen) => listen::run(context, listen).await,
        Command::Inspect(inspect) => inspect::run(context, inspect).await.map_err(inspect::explain),
        Command::Explain(explain) => explain::run(context, explain).await,
        Command::Dlq { command } => dlq::run(context, command).await,
        Command::Doctor => doctor::run(context).await,
        Command::Top(top) => top::run(context, top).await,
        Command::Bench(bench) => bench::run(context, bench).await,
        Command::Schema { command } => schema::run(context, command).await,
        Command::Config { command } => config::run(context, &command).await,
        Command::Shell => shell::run(context).await,
        Command::Completions { shell } => complete::completions(shell),
        Command::Man { folder } => complete::man_pages(&folder),
        Command::Version => output::version(context),
    }
}
