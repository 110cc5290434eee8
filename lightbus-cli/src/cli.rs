//! What can be typed: commands, options, their help.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

/// Calls, fires, listens and looks at a bus.
#[derive(Debug, Parser)]
#[command(
    name = "lightbus",
    version,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 the operation failed, 2 wrong usage or configuration, 3 the \
                  broker is out of reach, 4 it took too long, 130 interrupted.",
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
  0    done
  1    the operation failed: a remote error, an event that was refused, a schema that breaks users
  2    wrong usage, or a wrong configuration
  3    the broker is out of reach
  4    it took too long
  130  interrupted

Examples:
  lightbus --config lightbus.yaml call auth.check_password username=admin password=secret
  lightbus fire auth.user_registered username=a email=b@example.com
  lightbus listen 'auth.*' --name watch --json";

/// What every command has.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// The configuration; several files with commas between are laid over each other. Without it,
    /// the files that LIGHTBUS_CONFIG names.
    #[arg(long, short = 'C', global = true, value_name = "FILE")]
    pub(crate) config: Option<String>,
    /// Prints JSON, errors on standard error too: for scripts.
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
    /// The tool need not serve the API: it speaks for it, and checks each event against the schema
    /// that is on the bus. Services that register their API know better what they fire: use this
    /// for tests, repairs and imports.
    #[command(after_help = "Examples:
  lightbus fire auth.user_registered username=a email=b@example.com
  lightbus fire auth.user_registered --stdin < users.jsonl     # one object of arguments a line")]
    Fire(Fire),
    /// Listens to events and prints one line for each; it is acknowledged when it is printed.
    #[command(after_help = "Examples:
  lightbus listen auth.user_registered --name watch
  lightbus listen 'auth.*' --name audit --from earliest --json | jq .arguments
  lightbus listen 'auth.*' --name once --count 1 --from 10m")]
    Listen(Listen),
    /// Shows past events, newest first, where the broker keeps them.
    #[command(after_help = "Examples:
  lightbus inspect auth --event user_registered --since 1h
  lightbus inspect auth --json-path 'address.city=London' --json
  lightbus inspect auth --schema new.json --since 1d     # 1 if an event would not fit
  lightbus inspect auth --pending
  lightbus inspect auth --follow")]
    Inspect(Inspect),
    /// The descriptions of the APIs on the bus.
    #[command(after_help = "Examples:
  lightbus schema dump -o schemas.json
  lightbus schema check schemas.json")]
    Schema {
        #[command(subcommand)]
        command: Schema,
    },
    /// The configuration: what is in it, and what is wrong with it.
    #[command(after_help = "Examples:
  lightbus --config lightbus.yaml config check
  lightbus --config lightbus.yaml config show")]
    Config {
        #[command(subcommand)]
        command: Config,
    },
    /// Shows what an API, procedure or event is on the broker: keys, groups, who holds what and for
    /// how long, guarantees, and the broker's own commands to look at each.
    #[command(after_help = "Examples:
  lightbus explain auth
  lightbus explain auth.user_registered --json")]
    Explain(Explain),
    /// Holds the brokers' settings against what the bus promises; 1 if a promise is broken.
    #[command(after_help = "Example:
  lightbus --config production.yaml doctor --json | jq 'select(.severity == \"problem\")'")]
    Doctor,
    /// Shows what goes on on the bus, as it happens: processes, calls, events, listeners, with rates,
    /// times, errors, what waits and what was set aside.
    ///
    /// Processes are known by the plugin `internal_state`, calls and events by `internal_metrics`;
    /// what waits is the broker's own figure. Nothing is taken from anybody. Without a terminal one
    /// sample is printed.
    #[command(after_help = "Keys:
  q, Esc, Ctrl-C  end             Tab, Shift-Tab  another table
  p               pause           Up, Down        scroll it
  s               sort            Enter           it alone, and back

Examples:
  lightbus top
  lightbus top --once
  lightbus top --json --interval 10 | jq '.groups[] | select(.dead_letters > 0)'")]
    Top(Top),
    /// Measures how fast this bus is, with an echo service and a listener of its own.
    #[command(after_help = "Examples:
  lightbus bench rpc --callers 100 --size 1000 --seconds 10
  lightbus bench events --json")]
    Bench(Bench),
    /// The events that a listener could not handle.
    #[command(after_help = "Examples:
  lightbus dlq list shop welcome --event 'auth.*'
  lightbus dlq retry shop welcome --reason 'no connection'
  lightbus dlq purge shop welcome --before 30d --dry-run")]
    Dlq {
        #[command(subcommand)]
        command: Dlq,
    },
    /// A prompt for these commands, with history and completion from the schemas on the bus.
    #[command(after_help = "Example:
  lightbus --config lightbus.yaml shell")]
    Shell,
    /// Prints completions for a shell.
    #[command(after_help = "Example:
  lightbus completions bash > ~/.local/share/bash-completion/completions/lightbus")]
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Writes a manual page for each command.
    #[command(after_help = "Example:
  lightbus man ~/.local/share/man/man1")]
    Man {
        /// Where to; it must be there.
        folder: PathBuf,
    },
    /// Prints the version; with --json the transports that it has, too.
    #[command(after_help = "Example:
  lightbus version --json | jq .transports")]
    Version,
}

#[derive(Args, Debug)]
pub(crate) struct Call {
    /// What to call.
    #[arg(value_name = "API.PROCEDURE")]
    pub(crate) procedure: String,
    /// Arguments: key=text, or key:=json.
    #[arg(value_name = "KEY=TEXT|KEY:=JSON")]
    pub(crate) arguments: Vec<String>,
    /// How many seconds to wait for the result, instead of the API's `rpc_timeout`.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Fire {
    /// What to fire.
    #[arg(value_name = "API.EVENT")]
    pub(crate) event: String,
    /// Arguments: key=text, or key:=json.
    #[arg(value_name = "KEY=TEXT|KEY:=JSON", conflicts_with = "stdin")]
    pub(crate) arguments: Vec<String>,
    /// Fires an event for each line of standard input: a JSON object of its arguments.
    #[arg(long)]
    pub(crate) stdin: bool,
    /// How many events are under way at once; with 1 they keep their order.
    #[arg(long, value_name = "N", default_value_t = 256, requires = "stdin",
        value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) in_flight: u16,
}

#[derive(Args, Debug)]
pub(crate) struct Listen {
    /// What to listen to: an event, or all events of an API; several of them go to one listener.
    #[arg(value_name = "API.EVENT|API.*", required = true)]
    pub(crate) events: Vec<String>,
    /// The listener's name: whoever listens under it again goes on where it was.
    #[arg(long)]
    pub(crate) name: String,
    /// The service that it belongs to, the other half of the consumer group's name. With the name
    /// of a service and one of its listeners, events are taken away from that service.
    #[arg(long, default_value = "lightbus-cli")]
    pub(crate) service: String,
    /// Ends after so many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Where a listener of a new name begins: `new`, `earliest`, or a moment, such as 10m (ago) or
    /// 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "new|earliest|TIME", default_value = "new", value_parser = crate::moment::start)]
    pub(crate) from: lightbus::Start,
}

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    /// The API; without it, all that are on the bus.
    pub(crate) api: Option<String>,
    /// Only this event.
    #[arg(long, short)]
    pub(crate) event: Option<String>,
    /// Only the event of this id.
    #[arg(long, short)]
    pub(crate) id: Option<String>,
    /// Only the event that the broker calls so.
    #[arg(long, short)]
    pub(crate) native_id: Option<String>,
    /// Only events of this version of the API.
    #[arg(long, value_name = "VERSION")]
    pub(crate) event_version: Option<u32>,
    /// Only events whose arguments have this: a JSONPath, then perhaps = != < <= > >= and a value.
    #[arg(long, short, value_name = "PATH=VALUE")]
    pub(crate) json_path: Option<String>,
    /// Not older than this: 10m (ago) or 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = crate::moment::moment)]
    pub(crate) since: Option<std::time::SystemTime>,
    /// Not newer than this.
    #[arg(long, value_name = "TIME", value_parser = crate::moment::moment, conflicts_with = "follow")]
    pub(crate) until: Option<std::time::SystemTime>,
    /// At most so many of the past.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Goes on with what is fired from now on, oldest first, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Says of each event whether it fits the schema on the bus; 1 if one does not.
    #[arg(long, short = 'd')]
    pub(crate) validate: bool,
    /// The same, with schemas that `schema dump` wrote.
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// Internal APIs, too, when no API is named.
    #[arg(long, short = 'I', conflicts_with = "api")]
    pub(crate) internal: bool,
    /// Instead of the past: what is queued and what is pending, by whom and for how long.
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
    /// What to explain.
    #[arg(value_name = "API[.NAME]")]
    pub(crate) name: String,
}

#[derive(Args, Debug)]
pub(crate) struct Top {
    /// How often it is looked. Rates are of the last ten intervals.
    #[arg(long, short = 'n', value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    pub(crate) interval: Duration,
    /// Prints one sample after one interval, and ends.
    #[arg(long, conflicts_with = "count")]
    pub(crate) once: bool,
    /// Prints so many samples, one after each interval, and ends. With --json they do not end
    /// without it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

#[derive(Args, Debug)]
pub(crate) struct Bench {
    /// What to measure.
    pub(crate) kind: BenchKind,
    /// How many call or fire at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) callers: u16,
    /// How long the argument is, in bytes.
    #[arg(long, value_name = "B", default_value_t = 100, value_parser = size)]
    pub(crate) size: usize,
    /// For how long.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Measures although others use this bus.
    #[arg(long)]
    pub(crate) shared: bool,
}

/// Whose dead letters, and which of them.
#[derive(Args, Debug)]
pub(crate) struct Letters {
    /// The service that listened.
    pub(crate) service: String,
    /// Its listener.
    pub(crate) listener: String,
    /// Only of this id: the dead letter's or the event's.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Only of this event, or of all of an API.
    #[arg(long, value_name = "API.EVENT|API.*")]
    pub(crate) event: Option<String>,
    /// Only those whose reason has this text.
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// Only those set aside before this: 7d (ago) or 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = crate::moment::moment)]
    pub(crate) before: Option<std::time::SystemTime>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Dlq {
    /// One line for each, oldest first.
    #[command(after_help = "Examples:
  lightbus dlq list shop welcome
  lightbus dlq list shop welcome --event 'auth.*' --reason 'no place' --json | jq .reason")]
    List {
        #[command(flatten)]
        letters: Letters,
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: usize,
    },
    /// Everything that is known about them.
    #[command(after_help = "Example:
  lightbus dlq show shop welcome --id 1706700000000-0")]
    Show {
        #[command(flatten)]
        letters: Letters,
    },
    /// Gives them back to the listener that set them aside, which handles them again.
    ///
    /// To its group alone, as they were fired, their tries counted anew; then they are dead letters no
    /// more. One that fails again becomes a dead letter again, and is not taken twice by one run.
    #[command(after_help = "Examples:
  lightbus dlq retry shop welcome --reason 'no connection' --dry-run
  lightbus dlq retry shop welcome --all --rate 10")]
    Retry {
        #[command(flatten)]
        letters: Letters,
        /// Says how many it would be, and gives none back.
        #[arg(long)]
        dry_run: bool,
        /// Gives all back.
        #[arg(long)]
        all: bool,
        /// At most so many a second.
        #[arg(long, value_name = "N", default_value_t = 100,
            value_parser = clap::value_parser!(u16).range(1..=10_000))]
        rate: u16,
    },
    /// Removes them, for ever.
    #[command(after_help = "Examples:
  lightbus dlq purge shop welcome --before 30d --dry-run
  lightbus dlq purge shop welcome --all")]
    Purge {
        #[command(flatten)]
        letters: Letters,
        /// Says how many it would be, and removes none.
        #[arg(long)]
        dry_run: bool,
        /// Removes all.
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
    /// Prints the schemas on the bus, `{api: document}`, or writes them.
    #[command(after_help = "Examples:
  lightbus schema dump auth | jq .auth.rpcs
  lightbus schema dump -o schemas.json
  lightbus schema dump -o schemas/       # a file for each API")]
    Dump {
        /// Only these APIs.
        apis: Vec<String>,
        /// Into this file; into this folder, one file for each API.
        #[arg(long, short)]
        output: Option<PathBuf>,
    },
    /// Puts schemas of a file on the bus, until `bus.schema.ttl` ends: for APIs that nobody serves.
    #[command(after_help = "Example:
  lightbus schema load schemas.json")]
    Load {
        /// What `schema dump` wrote.
        file: PathBuf,
    },
    /// What differs between schemas, and whom it breaks.
    #[command(after_help = "Examples:
  lightbus schema diff old.json new.json
  lightbus schema diff new.json          # against what is on the bus")]
    Diff {
        /// The older schemas; alone, they are the newer ones, and those on the bus the older.
        #[arg(value_name = "OLD")]
        first: PathBuf,
        /// The newer schemas.
        #[arg(value_name = "NEW")]
        second: Option<PathBuf>,
    },
    /// Fails with 1 if these schemas would break users of those on the bus.
    #[command(after_help = "Example:
  lightbus --config production.yaml schema check schemas.json || echo 'not compatible'")]
    Check {
        /// What `schema dump` wrote.
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
    /// Prints the values in effect, each with where it came from; secrets are hidden.
    #[command(after_help = "Example:
  lightbus --config lightbus.yaml config show | grep timeout")]
    Show,
}

/// Seconds that may have a fraction.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(duration) if !duration.is_zero() && duration.as_secs() <= 365 * 86_400 => Ok(duration),
        _ => Err("not a time between 0 and a year".to_owned()),
    }
}

/// A number of bytes that brokers take.
fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size <= 1 << 20 => Ok(size),
        _ => Err("not a number of bytes up to 1048576".to_owned()),
    }
}
