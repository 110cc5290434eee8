//! Maps the client library's errors to lightbus' errors.

use lapin::ErrorKind as AmqpKind;
use lightbus_core::{Error, ErrorKind, Retry};

/// Whether a failed operation may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It has not.
    No,
    /// It may have, and repeating it has a visible effect.
    Maybe,
    /// It may have, and repeating it does no harm.
    Harmless,
}

/// Returns the code and the text of the broker's answer, if the error is one.
pub(crate) fn answer(error: &lapin::Error) -> Option<(u16, &str)> {
    match error.kind() {
        AmqpKind::ProtocolError(error) => Some((error.get_id(), error.get_message().as_str())),
        _ => None,
    }
}

/// Whether a queue or an exchange does not exist.
pub(crate) fn is_missing(error: &lapin::Error) -> bool {
    answer(error).is_some_and(|(code, text)| code == 404 && !is_down(text))
}

/// Whether another connection has a queue to itself.
pub(crate) fn is_locked(error: &lapin::Error) -> bool {
    answer(error).is_some_and(|(code, _)| code == 405)
}

/// Whether the broker refuses transient queues: its operator, or a later version, does not permit them.
pub(crate) fn refuses_transient_queues(error: &lapin::Error) -> bool {
    answer(error).is_some_and(|(_, text)| text.contains("transient_nonexcl_queues"))
}

/// Whether the broker refuses a prefetch limit of the whole channel.
pub(crate) fn refuses_channel_limit(error: &lapin::Error) -> bool {
    answer(error).is_some_and(|(code, text)| {
        code == 540 || text.contains("global_qos") || text.contains("basic.qos")
    })
}

/// Whether a queue exists on a node that is down.
fn is_down(text: &str) -> bool {
    text.contains("down or inaccessible") || text.contains("home node")
}

/// Maps an error of the client library.
pub(crate) fn from_lapin(error: lapin::Error, broker: &str, sent: Sent) -> Error {
    let retry = match sent {
        Sent::No | Sent::Harmless => Retry::Safe,
        Sent::Maybe => Retry::MayDuplicate,
    };
    let made = match answer(&error) {
        Some((code, text)) => from_answer(code, text, retry),
        None => from_client(&error, retry),
    };
    made.with("broker", format_args!("rabbitmq {broker}")).because(error)
}

fn from_answer(code: u16, text: &str, retry: Retry) -> Error {
    match code {
        403 => Error::new(
            ErrorKind::Config,
            format!("RabbitMQ refuses the user, the password, or what they ask for: {text}"),
        )
        .hint("Set them in `url`, as amqp://user:password@host:port/vhost, and grant the user the permissions to configure, write and read that the README of lightbus-transport-amqp lists"),
        404 if is_down(text) => {
            Error::new(ErrorKind::Unavailable, format!("the node of the queue is down: {text}"))
                .retry(retry)
        }
        405 => Error::new(ErrorKind::Unavailable, format!("a queue is in use: {text}")).retry(retry),
        406 if text.contains("inequivalent arg") => conflict(text),
        406 if text.contains("larger than") => {
            Error::new(ErrorKind::TooLarge, format!("RabbitMQ limits the size of messages: {text}"))
        }
        406 if text.contains("timed out") || text.contains("timeout") => Error::new(
            ErrorKind::Unavailable,
            format!("RabbitMQ ended a consumer that held a message for too long: {text}"),
        )
        .retry(retry)
        .hint("Handlers must finish within the broker's `consumer_timeout`"),
        530 | 402 => Error::new(ErrorKind::Config, format!("RabbitMQ has no such vhost: {text}"))
            .hint("Create it with rabbitmqctl add_vhost, or set another in `url`"),
        // Forced close, internal error, out of resources, channel error of a broker that shuts down.
        320 | 504 | 506 | 541 => {
            Error::new(ErrorKind::Unavailable, format!("RabbitMQ is not available now: {text}"))
                .retry(retry)
        }
        _ => Error::new(ErrorKind::Unexpected, format!("RabbitMQ refused a command: {text}")),
    }
}

/// A queue, an exchange or a stream exists with other arguments.
fn conflict(text: &str) -> Error {
    let argument = quoted(text, "inequivalent arg '").unwrap_or("an argument");
    let (kind, name) = quoted(text, "for queue '")
        .map(|name| ("queue", name))
        .or_else(|| quoted(text, "for exchange '").map(|name| ("exchange", name)))
        .unwrap_or(("queue", "?"));
    let remedy = match kind {
        "queue" => format!(
            "Give all processes the same options; or delete the queue when its messages are not needed: rabbitmqctl delete_queue {name}"
        ),
        _ => "Give all processes the same options, or set another name in `exchange`".to_owned(),
    };
    Error::new(
        ErrorKind::Config,
        format!("the {kind} `{name}` exists with another `{argument}`: {text}"),
    )
    .hint(remedy)
}

/// Returns the text between this prefix and the next quote.
fn quoted<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = &text[text.find(prefix)? + prefix.len()..];
    rest.split('\'').next()
}

fn from_client(error: &lapin::Error, retry: Retry) -> Error {
    let text = error.to_string();
    match error.kind() {
        AmqpKind::IOError(io) => {
            let made = Error::new(ErrorKind::Unavailable, text).retry(retry);
            if io.kind() == std::io::ErrorKind::ConnectionRefused {
                made.hint("Is RabbitMQ running there?")
            } else {
                made
            }
        }
        AmqpKind::SerialisationError(_) => Error::new(ErrorKind::TooLarge, text),
        AmqpKind::InvalidProtocolVersion(_)
        | AmqpKind::AuthProviderError(_)
        | AmqpKind::NoDefaultRuntime => Error::new(ErrorKind::Config, text),
        // All others are states of a connection or a channel that is closed, or not open yet.
        _ => Error::new(ErrorKind::Unavailable, text).retry(retry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_names_queue_argument_and_remedy() {
        let error = from_answer(
            406,
            "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'shop-mail' in vhost '/': received '5' but current is '100'",
            Retry::Safe,
        );
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        for part in ["`shop-mail`", "`x-delivery-limit`", "rabbitmqctl delete_queue shop-mail"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_queue_whose_node_is_down_may_return() {
        let error = from_answer(
            404,
            "NOT_FOUND - home node 'rabbit@b' of durable queue 'x' in vhost '/' is down or inaccessible",
            Retry::Safe,
        );
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Unavailable, Retry::Safe));
    }
}
