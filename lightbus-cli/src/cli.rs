//! The command line: commands, options and their help.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

/// Calls procedures, fires events, listens to events and inspects a bus.
#[derive(Debug, Parser)]
#[command(
    name = "lightbus",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 success, 1 the operation failed, 2 wrong usage or configuration, \
                  3 broker unreachable, 4 timeout, 130 interrupted.",
    after_long_help = EXIT_CODES
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0    success
  1    the operation failed: a remote error, a refused event, a schema that breaks users
  2    wrong usage or configuration
  3    the broker is unreachable
  4    timeout
  130  interrupted

Examples:
  lightbus --config lightbus.yaml call auth.check_password username=admin password=secret
  lightbus fire auth.user_registered username=a email=b@example.com
  lightbus listen 'auth.*' --name watch --json";

/// The options of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The configuration file. Several, separated by commas, are merged, later over earlier. Default:
    /// the files that LIGHTBUS_CONFIG names.
    #[arg(long, short = 'C', global = true, value_name = "FILE")]
    pub(crate) config: Option<String>,
    /// Prints JSON, for scripts; errors on standard error are JSON too.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Calls a procedure and prints its result as JSON.
    #[command(after_help = "Examples:
  lightbus call auth.check_password username=admin password=secret
  lightbus call shop.order article=42 count:=3 address:='{\"city\": \"London\"}' --timeout 10")]
    Call(Call),
    /// Fires an event, or many from standard input.
    ///
    /// The tool does not serve the API: it fires on its behalf, and checks each event against the
    /// schema on the bus. Use it for tests, repairs and imports; a service registers its API and fires
    /// typed events.
    #[command(after_help = "Examples:
  lightbus fire auth.user_registered username=a email=b@example.com
  lightbus fire auth.user_registered --stdin < users.jsonl     # one object of arguments a line")]
    Fire(Fire),
    /// Listens to events and prints one line for each. An event is acknowledged once it is printed.
    #[command(after_help = "Examples:
  lightbus listen auth.user_registered --name watch
  lightbus listen 'auth.*' --name audit --from earliest --json | jq .arguments
  lightbus listen 'auth.*' --name once --count 1 --from 10m")]
    Listen(Listen),
    /// Shows past events, newest first, if the broker keeps them.
    #[command(after_help = "Examples:
  lightbus inspect auth --event user_registered --since 1h
  lightbus inspect auth --json-path 'address.city=London' --json
  lightbus inspect auth --schema new.json --since 1d     # exit code 1 if an event does not fit
  lightbus inspect auth --pending
  lightbus inspect auth --follow")]
    Inspect(Inspect),
    /// Saves, publishes and compares the schemas of the APIs on the bus.
    #[command(after_help = "Examples:
  lightbus schema dump -o schemas.json
  lightbus schema check schemas.json")]
    Schema {
        #[command(subcommand)]
        command: Schema,
    },
    /// Checks and shows the configuration.
    #[command(after_help = "Examples:
  lightbus --config lightbus.yaml config check
  lightbus --config lightbus.yaml config show")]
    Config {
        #[command(subcommand)]
        command: Config,
    },
    /// Shows how an API, procedure or event is stored on the broker: keys, consumer groups, which
    /// process holds what and for how long, guarantees, and the broker's own commands to inspect it.
    #[command(after_help = "Examples:
  lightbus explain auth
  lightbus explain auth.user_registered --json")]
    Explain(Explain),
    /// Checks the brokers' settings against what the bus promises; exit code 1 if a promise is broken.
    #[command(after_help = "Example:
  lightbus --config production.yaml doctor --json | jq 'select(.severity == \"problem\")'")]
    Doctor,
    /// Shows live activity: processes, calls, events and listeners, with rates, latencies, errors,
    /// backlogs and dead letters.
    ///
    /// Processes are known from the plugin `internal_state`, calls and events from `internal_metrics`;
    /// backlogs are the broker's own figures. No other listener loses an event to it. Without a
    /// terminal, one sample is printed.
    #[command(after_help = "Keys:
  q, Esc, Ctrl-C  quit            Tab, Shift-Tab  next, previous table
  p               pause           Up, Down        scroll the table
  s               sort            Enter           enlarge the table, and back

Examples:
  lightbus top
  lightbus top --once
  lightbus top --json --interval 10 | jq '.groups[] | select(.dead_letters > 0)'")]
    Top(Top),
    /// Measures the speed of this bus with an echo service and a listener of its own.
    #[command(after_help = "Examples:
  lightbus bench rpc --callers 100 --size 1000 --seconds 10
  lightbus bench events --json")]
    Bench(Bench),
    /// Lists, requeues and removes dead letters: events that a listener could not handle.
    #[command(after_help = "Examples:
  lightbus dlq list shop welcome --event 'auth.*'
  lightbus dlq retry shop welcome --reason 'no connection'
  lightbus dlq purge shop welcome --before 30d --dry-run")]
    Dlq {
        #[command(subcommand)]
        command: Dlq,
    },
    /// Starts a prompt for these commands, with history, and completion from the schemas on the bus.
    #[command(after_help = "Example:
  lightbus --config lightbus.yaml shell")]
    Shell,
    /// Prints completions for a shell.
    #[command(after_help = "Example:
  lightbus completions bash > ~/.local/share/bash-completion/completions/lightbus")]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Writes a manual page for each command.
    #[command(after_help = "Example:
  lightbus man ~/.local/share/man/man1")]
    Man {
        /// The folder to write to; it must exist.
        folder: PathBuf,
    },
    /// Prints the version; with --json the available transports too.
    #[command(after_help = "Example:
  lightbus version --json | jq .transports")]
    Version,
}

#[derive(Args, Debug)]
pub(crate) struct Call {
    /// The procedure to call.
    #[arg(value_name = "API.PROCEDURE")]
    pub(crate) procedure: String,
    /// Arguments: key=text, or key:=json.
    #[arg(value_name = "KEY=TEXT|KEY:=JSON")]
    pub(crate) arguments: Vec<String>,
    /// Seconds to wait for the result, instead of the API's `rpc_timeout`.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Fire {
    /// The event to fire.
    #[arg(value_name = "API.EVENT")]
    pub(crate) event: String,
    /// Arguments: key=text, or key:=json.
    #[arg(value_name = "KEY=TEXT|KEY:=JSON", conflicts_with = "stdin")]
    pub(crate) arguments: Vec<String>,
    /// Fires an event for each line of standard input: a JSON object of its arguments.
    #[arg(long)]
    pub(crate) stdin: bool,
    /// The version of the API that the event has. Default: the one in the schema; for a schema without
    /// one, as those of Python, the newest past event's, or else 1.
    #[arg(long, value_name = "VERSION")]
    pub(crate) event_version: Option<u32>,
    /// How many events may be in flight at once; with 1 they keep their order.
    #[arg(long, value_name = "N", default_value_t = 256, requires = "stdin",
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) in_flight: u16,
}

#[derive(Args, Debug)]
pub(crate) struct Listen {
    /// An event, or all events of an API; several go to one listener.
    #[arg(value_name = "API.EVENT|API.*", required = true)]
    pub(crate) events: Vec<String>,
    /// The listener's name. Listening again under the same name resumes where it stopped.
    #[arg(long)]
    pub(crate) name: String,
    /// The service that the listener belongs to, the first half of the consumer group's name. With the
    /// names of a running service and of one of its listeners, events are taken away from that service.
    #[arg(long, default_value = "lightbus-cli")]
    pub(crate) service: String,
    /// Stops after this many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Where a new listener starts: `new`, `earliest`, or a time such as 10m (ago) or
    /// 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "new|earliest|TIME", default_value = "new", value_parser = crate::timestamp::start)]
    pub(crate) from: lightbus::Start,
}

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// The API. Default: every API on the bus.
    pub(crate) api: Option<String>,
    /// Only this event.
    #[arg(long, short)]
    pub(crate) event: Option<String>,
    /// Only the event with this id.
    #[arg(long, short)]
    pub(crate) id: Option<String>,
    /// Only the event with this id of the broker's.
    #[arg(long, short)]
    pub(crate) native_id: Option<String>,
    /// Only events of this version of the API.
    #[arg(long, value_name = "VERSION")]
    pub(crate) event_version: Option<u32>,
    /// Only events whose arguments match: a JSONPath, optionally followed by = != < <= > >= and a value.
    #[arg(long, short, value_name = "PATH=VALUE")]
    pub(crate) json_path: Option<String>,
    /// Not older than this: 10m (ago) or 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = crate::timestamp::parse)]
    pub(crate) since: Option<std::time::SystemTime>,
    /// Not newer than this.
    #[arg(long, value_name = "TIME", value_parser = crate::timestamp::parse, conflicts_with = "follow")]
    pub(crate) until: Option<std::time::SystemTime>,
    /// At most this many past events.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Continues with new events, oldest first, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Checks each event against the schema on the bus; exit code 1 if one does not fit.
    #[arg(long, short = 'd')]
    pub(crate) validate: bool,
    /// Checks each event against schemas saved by `schema dump`.
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// Includes internal APIs when no API is named.
    #[arg(long, short = 'I', conflicts_with = "api")]
    pub(crate) internal: bool,
    /// Shows what is queued and pending, held by which process and for how long, instead of past events.
    #[arg(
        long,
        conflicts_with_all = [
            "id", "native_id", "event_version", "json_path", "since", "until", "limit", "follow",
            "validate", "schema",
        ],
    )]
    pub(crate) pending: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The API, procedure or event to explain.
    #[arg(value_name = "API[.NAME]")]
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct Top {
    /// Seconds between samples. Rates cover the last ten intervals.
    #[arg(long, short = 'n', value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// Prints one sample after one interval, and exits.
    #[arg(long, conflicts_with = "count")]
    pub(crate) once: bool,
    /// Prints this many samples, one per interval, and exits. Without it, --json prints samples until
    /// Ctrl-C.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// What to measure.
    pub(crate) kind: BenchKind,
    /// How many callers run at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) callers: u16,
    /// Size of the argument in bytes.
    #[arg(long, value_name = "B", default_value_t = 100, value_parser = size)]
    pub(crate) size: usize,
    /// Duration in seconds.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Measures even if other services use this bus.
    #[arg(long)]
    pub(crate) shared: bool,
}

/// The dead letters of a listener, filtered.
#[derive(Args, Debug)]
pub(crate) struct Letters {
    /// The service.
    pub(crate) service: String,
    /// Its listener.
    pub(crate) listener: String,
    /// Only the one with this id, either the dead letter's or the event's.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Only this event, or all events of an API.
    #[arg(long, value_name = "API.EVENT|API.*")]
    pub(crate) event: Option<String>,
    /// Only those whose reason contains this text.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Only those dead-lettered before this: 7d (ago) or 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = crate::timestamp::parse)]
    pub(crate) before: Option<std::time::SystemTime>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// Lists dead letters, one per line, oldest first.
    #[command(after_help = "Examples:
  lightbus dlq list shop welcome
  lightbus dlq list shop welcome --event 'auth.*' --reason 'no place' --json | jq .reason")]
    List {
        #[command(flatten)]
        letters: Letters,
        /// At most this many.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
    },
    /// Shows all details of dead letters.
    #[command(after_help = "Example:
  lightbus dlq show shop welcome --id 1706700000000-0")]
    Show {
        #[command(flatten)]
        letters: Letters,
    },
    /// Requeues dead letters for their listener, which handles them again.
    ///
    /// They go to its consumer group alone, as they were fired and with a fresh count of attempts, and
    /// are then removed from the dead letters. One that fails again becomes a dead letter again; a run
    /// requeues it once.
    #[command(after_help = "Examples:
  lightbus dlq retry shop welcome --reason 'no connection' --dry-run
  lightbus dlq retry shop welcome --all --rate 10")]
    Retry {
        #[command(flatten)]
        letters: Letters,
        /// Prints how many it would requeue, and changes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Requeues all of them.
        #[arg(long)]
        all: bool,
        /// At most this many per second.
        #[arg(long, value_name = "N", default_value_t = 100,
            value_parser = clap::value_parser!(u16).range(1..=10_000))]
        rate: u16,
    },
    /// Removes dead letters permanently.
    #[command(after_help = "Examples:
  lightbus dlq purge shop welcome --before 30d --dry-run
  lightbus dlq purge shop welcome --all")]
    Purge {
        #[command(flatten)]
        letters: Letters,
        /// Prints how many it would remove, and changes nothing.
        #[arg(long)]
        dry_run: bool,
        /// Removes all of them.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum BenchKind {
    /// Calls: from the caller to the worker and back.
    Rpc,
    /// Events: until the broker has confirmed them, and until all are handled.
    Events,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Schema {
    /// Prints the schemas on the bus as `{api: document}`, or saves them.
    #[command(after_help = "Examples:
  lightbus schema dump auth | jq .auth.rpcs
  lightbus schema dump -o schemas.json
  lightbus schema dump -o schemas/       # one file per API")]
    Dump {
        /// Only these APIs.
        apis: Vec<String>,
        /// The file to write, or a folder for one file per API.
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Publishes saved schemas, until `bus.schema.ttl` expires: for APIs that no process serves.
    #[command(after_help = "Example:
  lightbus schema load schemas.json")]
    Load {
        /// A file written by `schema dump`.
        file: PathBuf,
    },
    /// Compares schemas, and says whom each difference breaks.
    #[command(after_help = "Examples:
  lightbus schema diff old.json new.json
  lightbus schema diff new.json          # against what is on the bus")]
    Diff {
        /// The older schemas. Given alone, the newer ones, to compare with those on the bus.
        #[arg(value_name = "OLD")]
        first: PathBuf,
        /// The newer schemas.
        #[arg(value_name = "NEW")]
        second: Option<PathBuf>,
    },
    /// Fails with exit code 1 if these schemas would break users of those on the bus.
    #[command(after_help = "Example:
  lightbus --config production.yaml schema check schemas.json || echo 'not compatible'")]
    Check {
        /// A file written by `schema dump`.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Checks the configuration without connecting.
    #[command(after_help = "Example:
  lightbus --config lightbus.yaml config check")]
    Check,
    /// Prints the JSON Schema of configurations, for editors.
    #[command(after_help = "Example:
  lightbus config schema > lightbus.schema.json")]
    Schema,
    /// Prints the values in effect and where each comes from; secrets are hidden.
    #[command(after_help = "Example:
  lightbus --config lightbus.yaml config show | grep timeout")]
    Show,
}

/// Reads a number of seconds, which may have a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && duration.as_secs() <= 365 * 86_400 => Ok(duration),
        _ => Err("not a duration between 0 and a year".to_owned()),
    }
}

/// Reads a number of bytes that every broker accepts.
fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size <= 1 << 20 => Ok(size),
        _ => Err("not a number of bytes up to 1048576".to_owned()),
    }
}
