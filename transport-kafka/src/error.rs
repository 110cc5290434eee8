//! Maps librdkafka's errors to lightbus' errors.

use std::time::{Duration, Instant};

use lightbus_core::{Error, ErrorKind, Retry, time::after};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Whether a failed operation may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It may have, and repeating it has a visible effect.
    Maybe,
    /// It has not, or repeating it does no harm.
    Harmless,
}

/// Whether the topic does not exist.
pub(crate) fn is_unknown_topic(code: Code) -> bool {
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
}

/// Whether the brokers refuse the user or what it wants to do, so that retrying does not help.
pub(crate) fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
    )
}

/// Returns the code of an error, if it has one.
pub(crate) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Repeats a request while partitions are being created or change their leader, at most for `timeout`.
/// Blocks.
pub(crate) fn retry_transient<T>(
    timeout: Duration,
    mut ask: impl FnMut() -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    let deadline = after(Instant::now(), timeout);
    loop {
        match ask() {
            Err(error)
                if Instant::now() < deadline
                    && matches!(
                        code(&error),
                        Some(
                            Code::NotLeaderForPartition
                                | Code::LeaderNotAvailable
                                | Code::ReplicaNotAvailable
                                | Code::UnknownTopicOrPartition
                                | Code::UnknownTopic
                                | Code::UnknownPartition
                                // The broker does not know the newest leader yet.
                                | Code::UnknownLeaderEpoch
                                | Code::FencedLeaderEpoch
                                | Code::NotCoordinator
                                | Code::CoordinatorNotAvailable
                                | Code::CoordinatorLoadInProgress
                        )
                    ) =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            answer => return answer,
        }
    }
}

/// Maps an error of the client.
pub(crate) fn from_kafka(error: KafkaError, broker: &str, sent: Sent) -> Error {
    let made = match code(&error) {
        Some(code) => from_code(code, broker, sent),
        None => Error::new(ErrorKind::Unexpected, format!("librdkafka failed: {error}"))
            .with("broker", format_args!("kafka {broker}")),
    };
    made.because(error)
}

/// Maps an error code.
pub(crate) fn from_code(code: Code, broker: &str, sent: Sent) -> Error {
    let retry = match sent {
        Sent::Harmless => Retry::Safe,
        Sent::Maybe => Retry::MayDuplicate,
    };
    let text = text(code);
    let made = match code {
        Code::Authentication | Code::SaslAuthenticationFailed => {
            Error::new(ErrorKind::Config, format!("Kafka refuses the user or the password: {text}"))
                .hint("Set them in `sasl`, and set `tls` if the brokers require it")
        }
        code if is_refusal(code) => {
            Error::new(ErrorKind::Config, format!("the Kafka user may not do this: {text}")).hint(
                "Grant the user the rights that the README of lightbus-transport-kafka lists",
            )
        }
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            Error::new(ErrorKind::TooLarge, format!("the record is larger than Kafka accepts: {text}"))
                .hint("Send smaller messages, or raise `message.max.bytes` in `librdkafka` and `max.message.bytes` of the topic")
        }
        Code::InvalidTopic => {
            Error::new(ErrorKind::Config, format!("Kafka refuses the name of the topic: {text}"))
                .hint("On Kafka, topics whose names differ only in `.` and `_` exclude each other")
        }
        Code::InvalidReplicationFactor => {
            Error::new(ErrorKind::Unavailable, format!("there are too few brokers for the replicas of the topic: {text}"))
                .hint("Has the cluster as many brokers as `replication` says, and are they up?")
        }
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
            Error::new(ErrorKind::Unavailable, format!("too few replicas are up to store the record: {text}")).retry(retry)
        }
        Code::InvalidConfig | Code::PolicyViolation | Code::InvalidPartitions | Code::InvalidReplicaAssignment => {
            Error::new(ErrorKind::Config, format!("Kafka refuses to create the topic: {text}"))
                .hint("Look at `partitions`, `replication` and `topic_settings`")
        }
        Code::InvalidRecord => {
            Error::new(ErrorKind::Config, format!("Kafka refuses the record: {text}"))
                .hint("A topic with `cleanup.policy: compact` accepts no event without a key: set it to `delete`")
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature => {
            Error::new(ErrorKind::Unsupported, format!("this Kafka is too old: {text}"))
        }
        Code::InvalidArgument | Code::NotImplemented => {
            Error::new(ErrorKind::Unexpected, format!("librdkafka refused: {text}"))
        }
        // All other codes are temporary: a broker is down, the leader changes, or the group rebalances.
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve => {
            Error::new(ErrorKind::Unavailable, format!("no broker can be reached: {text}"))
                .retry(retry)
                .hint("Is Kafka running there, and are its `advertised.listeners` reachable from here?")
        }
        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut => {
            Error::new(ErrorKind::Unavailable, format!("Kafka did not answer in time: {text}")).retry(retry)
        }
        _ => Error::new(ErrorKind::Unavailable, format!("Kafka is not available now: {text}")).retry(retry),
    };
    made.with("broker", format_args!("kafka {broker}"))
}

/// Returns the code's description, in one line.
pub(crate) fn text(code: Code) -> String {
    code.to_string().lines().next().unwrap_or_default().to_owned()
}
