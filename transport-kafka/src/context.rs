//! What librdkafka says by itself, as log lines.

use rdkafka::{
    client::ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};

/// A client without more duties than to log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Logging;

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        report(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        stats(statistics);
    }
}

/// A line of librdkafka's log.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{text}");
        }
        // What matters of it comes back as an error from what was being done; a broker that is away
        // would fill the log.
        _ => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

/// An error that belongs to no operation.
pub(crate) fn report(error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AllBrokersDown) => {
            tracing::warn!(target: "librdkafka", "no broker can be reached: {reason}");
        }
        Some(RDKafkaErrorCode::Authentication) => {
            tracing::error!(target: "librdkafka", "Kafka refuses user or password: {reason}");
        }
        _ => tracing::debug!(target: "librdkafka", %error, "{reason}"),
    }
}

/// Statistics, where `librdkafka: { statistics.interval.ms: … }` asks for them.
pub(crate) fn stats(statistics: &[u8]) {
    tracing::info!(target: "librdkafka::stats", "{}", String::from_utf8_lossy(statistics));
}
