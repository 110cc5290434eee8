//! From the client's errors to lightbus'.

use std::time::{Duration, Instant};

use lightbus_core::{Error, ErrorKind, Retry};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

/// Whether what failed may have been done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It may have, and doing it twice shows.
    Maybe,
    /// It was not, or doing it twice does no harm.
    Harmless,
}

/// Whether Kafka does not know the topic.
pub(crate) fn is_unknown_topic(code: Code) -> bool {
    matches!(code, Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition)
}

/// Whether the client refuses who we are, or what we want to do: waiting does not help.
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

/// The code of an error, where it has one.
pub(crate) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// Asks about a topic, again and again while its partitions are being made or change their leader.
/// Blocks.
pub(crate) fn retry_transient<T>(
    timeout: Duration,
    mut ask: impl FnMut() -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    let deadline = Instant::now() + timeout;
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
                                // Who is asked has not heard of the newest leader.
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

/// What an error of the client means to lightbus.
pub(crate) fn from_kafka(error: KafkaError, broker: &str, sent: Sent) -> Error {
    let made = match code(&error) {
        Some(code) => from_code(code, broker, sent),
        None => Error::new(ErrorKind::Unexpected, format!("librdkafka failed: {error}"))
            .with("broker", format_args!("kafka {broker}")),
    };
    made.because(error)
}

/// What an error code means to lightbus.
pub(crate) fn from_code(code: Code, broker: &str, sent: Sent) -> Error {
    let retry = match sent {
        Sent::Harmless => Retry::Safe,
        Sent::Maybe => Retry::MayDuplicate,
    };
    let text = text(code);
    let made = match code {
        Code::Authentication | Code::SaslAuthenticationFailed => {
            Error::new(ErrorKind::Config, format!("Kafka refuses the user or the password: {text}"))
                .hint("Put them into `sasl`, and encrypt with `tls` if the brokers ask for it")
        }
        code if is_refusal(code) => {
            Error::new(ErrorKind::Config, format!("the Kafka user may not do this: {text}")).hint(
                "Give the user the rights that the README of the Kafka transport lists",
            )
        }
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => {
            Error::new(ErrorKind::TooLarge, format!("Kafka does not take so large a record: {text}"))
                .hint("Send less, or raise `message.max.bytes` in `librdkafka` and `max.message.bytes` of the topic")
        }
        Code::InvalidTopic => {
            Error::new(ErrorKind::Config, format!("Kafka does not take the name of the topic: {text}"))
                .hint("Names that differ only in `.` and `_` exclude each other on Kafka")
        }
        Code::InvalidReplicationFactor => {
            Error::new(ErrorKind::Unavailable, format!("too few brokers for the copies of the topic: {text}"))
                .hint("Has the cluster as many brokers as `replication` says, and are they up?")
        }
        Code::NotEnoughReplicas | Code::NotEnoughReplicasAfterAppend => {
            Error::new(ErrorKind::Unavailable, format!("too few brokers are up to store it: {text}")).retry(retry)
        }
        Code::InvalidConfig | Code::PolicyViolation | Code::InvalidPartitions | Code::InvalidReplicaAssignment => {
            Error::new(ErrorKind::Config, format!("Kafka does not make such a topic: {text}"))
                .hint("Look at `partitions`, `replication` and `topic_settings`")
        }
        Code::InvalidRecord => {
            Error::new(ErrorKind::Config, format!("Kafka does not take such a record into the topic: {text}"))
                .hint("A topic with `cleanup.policy: compact` takes no event without a key: set it to `delete`")
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature => {
            Error::new(ErrorKind::Unsupported, format!("this Kafka is too old: {text}"))
        }
        Code::InvalidArgument | Code::NotImplemented => {
            Error::new(ErrorKind::Unexpected, format!("librdkafka refused: {text}"))
        }
        // Everything else passes: a broker is away, or another leads, or the group is rearranged.
        Code::BrokerTransportFailure | Code::AllBrokersDown | Code::Resolve => {
            Error::new(ErrorKind::Unavailable, format!("no broker can be reached: {text}"))
                .retry(retry)
                .hint("Is Kafka running there, and are its `advertised.listeners` reachable from here?")
        }
        Code::MessageTimedOut | Code::OperationTimedOut | Code::RequestTimedOut => {
            Error::new(ErrorKind::Unavailable, format!("Kafka did not answer in time: {text}")).retry(retry)
        }
        _ => Error::new(ErrorKind::Unavailable, format!("Kafka does not serve now: {text}")).retry(retry),
    };
    made.with("broker", format_args!("kafka {broker}"))
}

/// The code in words, in one line.
pub(crate) fn text(code: Code) -> String {
    code.to_string().lines().next().unwrap_or_default().to_owned()
}
