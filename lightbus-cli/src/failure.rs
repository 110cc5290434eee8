//! Why a command failed: the message, and the exit code that scripts rely on.

use std::{fmt, io, process::ExitCode};

use console::style;
use lightbus::{Error, ErrorKind};
use serde_json::json;

/// The operation failed.
pub(crate) const FAILED: u8 = 1;
/// Wrong usage or configuration.
pub(crate) const USAGE: u8 = 2;
/// The broker is unreachable.
pub(crate) const UNREACHABLE: u8 = 3;
/// Timeout.
pub(crate) const TIMEOUT: u8 = 4;
/// Ctrl-C, by the convention of shells.
pub(crate) const INTERRUPTED: u8 = 130;

#[derive(Debug)]
pub(crate) enum Failure {
    /// An error of the bus.
    Bus(Error),
    /// The same, when the broker is known to answer: never [`UNREACHABLE`].
    Reached(Error),
    /// A wrong configuration, with every mistake.
    Configuration(Vec<Error>),
    /// Wrong usage.
    Usage(String),
    /// Anything else.
    Failed(String),
    /// Everything is already printed.
    Quiet(u8),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Bus(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // The reader of a pipe, such as `head`, has read enough.
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Quiet(0)
        } else {
            Self::Failed(error.to_string())
        }
    }
}

/// On one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bus(error) | Self::Reached(error) => error.fmt(f),
            Self::Configuration(errors) => {
                let errors: Vec<_> = errors.iter().map(Error::to_string).collect();
                f.write_str(&errors.join("; "))
            }
            Self::Usage(text) | Self::Failed(text) => f.write_str(text),
            Self::Quiet(code) => write!(f, "code {code}"),
        }
    }
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Bus(error) => code(error),
            Self::Usage(_) | Self::Configuration(_) => USAGE,
            Self::Reached(_) | Self::Failed(_) => FAILED,
            Self::Quiet(code) => *code,
        }
    }

    /// Prints the error on standard error, and returns the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let code = self.code();
        match self {
            Self::Bus(error) | Self::Reached(error) if json => {
                eprintln!("{}", as_json(error, code))
            }
            // Each on a line of its own.
            Self::Configuration(errors) if json => {
                errors.iter().for_each(|error| eprintln!("{}", as_json(error, code)));
            }
            Self::Configuration(errors) => errors.iter().for_each(tell),
            Self::Usage(text) | Self::Failed(text) if json => {
                eprintln!("{}", json!({ "error": { "message": text, "code": code } }));
            }
            Self::Bus(error) | Self::Reached(error) => tell(error),
            Self::Usage(text) | Self::Failed(text) => eprintln!("{} {text}", label()),
            Self::Quiet(_) => {}
        }
        ExitCode::from(code)
    }
}

/// The exit code of an error of the bus.
pub(crate) fn code(error: &Error) -> u8 {
    match error.kind() {
        ErrorKind::Config => USAGE,
        ErrorKind::Unavailable => UNREACHABLE,
        ErrorKind::Timeout => TIMEOUT,
        _ => FAILED,
    }
}

fn label() -> String {
    style("error:").for_stderr().red().bold().to_string()
}

fn tell(error: &Error) {
    eprintln!("{} {error}", label());
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        eprintln!("  caused by: {error}");
        cause = error.source();
    }
    if let Some(trace) = error.remote().and_then(|remote| remote.trace.as_deref()) {
        eprintln!("{}\n{}", style("remote trace:").for_stderr().bold(), trace.trim_end());
    }
}

fn as_json(error: &Error, code: u8) -> serde_json::Value {
    let remote = error.remote().map(|remote| {
        let detail = remote.detail.as_deref().and_then(|text| serde_json::from_slice(text).ok());
        json!({
            "name": remote.name.as_deref(),
            "trace": remote.trace,
            "detail": detail.unwrap_or(serde_json::Value::Null),
        })
    });
    json!({ "error": {
        "kind": error.kind().as_str(),
        "message": error.message(),
        "during": error.operation(),
        "facts": error.context().map(|(key, value)| json!([key, value])).collect::<Vec<_>>(),
        "advice": error.advice(),
        "remote": remote,
        "code": code,
    } })
}
