//! Maps the client library's errors to lightbus' errors.

use lightbus_core::{Error, ErrorKind, Retry};
use redis::{ErrorKind as RedisKind, RedisError, ServerErrorKind, Value};

/// Whether a command that failed may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It has not.
    No,
    /// It may have, and repeating it has a visible effect.
    Maybe,
    /// It may have, and repeating it does no harm.
    Harmless,
}

/// Whether the connection cannot be used any more.
pub(crate) fn breaks_connection(error: &RedisError) -> bool {
    error.is_unrecoverable_error()
        || error.is_io_error()
        || matches!(
            error.kind(),
            RedisKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
        )
}

/// Whether a replica refused to write.
pub(crate) fn is_from_replica(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.kind() == Some(ServerErrorKind::ReadOnly))
}

/// Whether the consumer group or the stream does not exist.
pub(crate) fn is_missing_group(error: &RedisError) -> bool {
    matches!(error.code(), Some("NOGROUP" | "UNBLOCKED"))
        || error.detail().is_some_and(|detail| detail.contains("no such key"))
}

/// Whether the group exists already.
pub(crate) fn is_busy_group(error: &RedisError) -> bool {
    error.code() == Some("BUSYGROUP")
}

/// Returns why a transaction was refused: what the server said of its first refused command.
pub(crate) fn cause(error: RedisError) -> RedisError {
    let first = error.clone().into_server_errors();
    match first.as_deref().and_then(<[_]>::first) {
        Some((_, first)) => first.clone().into(),
        None => error,
    }
}

/// Maps the error of a command.
pub(crate) fn from_redis(error: RedisError, broker: &str, sent: Sent) -> Error {
    let text = error.to_string();
    let retry = match sent {
        Sent::No | Sent::Harmless => Retry::Safe,
        Sent::Maybe => Retry::MayDuplicate,
    };
    let made = match (error.kind(), error.code()) {
        (_, Some("WRONGPASS" | "NOAUTH")) | (RedisKind::AuthenticationFailed, _) => Error::new(
            ErrorKind::Config,
            format!("Redis refuses the user or the password: {text}"),
        )
        .hint("Set them in `url`, as redis://user:password@host:port/db, or in `connection_parameters`"),
        (_, Some("NOPERM")) => Error::new(
            ErrorKind::Config,
            format!("the Redis user may not do this: {text}"),
        )
        .hint("Grant the user the commands and keys that the README of lightbus-transport-redis lists"),
        (RedisKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown), _) => {
            Error::new(ErrorKind::Unavailable, format!("this Redis is a replica: {text}"))
                .hint("Set the primary's address in `url`, or let `sentinel` find it")
        }
        (
            RedisKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask,
            ),
            _,
        )
        | (_, Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY")) => {
            Error::new(ErrorKind::Unavailable, format!("Redis is not available now: {text}"))
        }
        (RedisKind::RESP3NotSupported, _) => too_old("below 6"),
        (RedisKind::InvalidClientConfig, _) => Error::new(ErrorKind::Config, text),
        (_, Some("WRONGTYPE")) => Error::new(
            ErrorKind::Unexpected,
            format!("a key of lightbus has another type: {text}"),
        )
        .hint("Does another program write to this Redis database?"),
        (RedisKind::Io | RedisKind::Parse | RedisKind::ClusterConnectionNotFound, _)
        | (
            RedisKind::MasterNameNotFoundBySentinel
            | RedisKind::NoValidReplicasFoundBySentinel
            | RedisKind::EmptySentinelList,
            _,
        ) => {
            let made = Error::new(ErrorKind::Unavailable, text).retry(retry);
            if error.is_connection_refusal() {
                made.hint("Is Redis running there?")
            } else {
                made
            }
        }
        _ if breaks_connection(&error) => Error::new(ErrorKind::Unavailable, text).retry(retry),
        _ => Error::new(ErrorKind::Unexpected, format!("Redis refused a command: {text}")),
    };
    made.with("broker", format_args!("redis {broker}")).because(error)
}

/// The error of a server that is too old.
pub(crate) fn too_old(version: &str) -> Error {
    Error::new(
        ErrorKind::Config,
        format!("lightbus needs Redis 6.2 or newer, and this is {version}"),
    )
}

/// The error of an answer that differs from the command's documentation.
pub(crate) fn odd_answer(command: &'static str, answer: &Value) -> Error {
    let mut text = format!("{answer:?}");
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    Error::new(ErrorKind::Unexpected, format!("Redis answered {command} with {text}"))
}
