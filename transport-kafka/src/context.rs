//! librdkafka's log, and why brokers refused a connection.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lightbus_core::{Error, ErrorKind, time::after};
use rdkafka::{
    client::ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};

/// librdkafka retries a refused connection within this time, and is refused again.
const AGAIN: Duration = Duration::from_secs(2);

/// Why brokers last refused a connection. An operation learns only that it reached no broker.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<(Instant, RDKafkaErrorCode, String)>>);

impl Refusals {
    /// Takes the reason from a log line: not every client is told by an error.
    pub(crate) fn read(&self, facility: &str, text: &str) {
        const USER: &str = "SASL authentication error: ";
        const ENCRYPTION: &str = "SSL handshake failed: ";
        if facility != "FAIL" {
            return;
        }
        for (words, code) in
            [(USER, RDKafkaErrorCode::Authentication), (ENCRYPTION, RDKafkaErrorCode::SSL)]
        {
            if let Some((_, reason)) = text.split_once(words) {
                self.put(code, reason);
            }
        }
    }

    fn put(&self, code: RDKafkaErrorCode, reason: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), code, reason.to_owned()));
    }

    pub(crate) fn note(&self, error: &KafkaError, reason: &str) {
        if let Some(code @ (RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL)) =
            error.rdkafka_error_code()
        {
            self.put(code, reason);
        }
    }

    /// Returns the refusal instead of an error, if it explains why an operation failed that began then.
    pub(crate) fn explain(&self, error: Error, began: Instant, broker: &str) -> Error {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, code, reason)) = &*last else { return error };
        if !error.is_temporary() || after(*at, AGAIN) < began {
            return error;
        }
        let (what, cure) = if *code == RDKafkaErrorCode::SSL {
            (
                "no encrypted connection could be established",
                "Is `tls.ca_file` the authority of the broker's certificate, and does the broker use TLS on this port?",
            )
        } else {
            (
                "Kafka refuses the user or the password",
                "Set them in `sasl` with the broker's mechanism, and set `tls` if the brokers require it",
            )
        };
        Error::new(ErrorKind::Config, format!("{what}: {reason}"))
            .with("broker", format_args!("kafka {broker}"))
            .hint(cure)
    }
}

/// The context of a client that only logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logging(pub(crate) Arc<Refusals>);

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.0.read(facility, text);
        log(level, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.note(&error, reason);
        report(&error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        stats(statistics);
    }
}

/// Logs a line of librdkafka's log.
pub(crate) fn log(level: RDKafkaLogLevel, facility: &str, text: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{text}");
        }
        // What matters is returned as an error by the operation that failed; an unreachable broker
        // would fill the log.
        _ => tracing::debug!(target: "librdkafka", facility, "{text}"),
    }
}

/// Logs an error that belongs to no operation.
pub(crate) fn report(error: &KafkaError, reason: &str) {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::AllBrokersDown) => {
            tracing::warn!(target: "librdkafka", "no broker can be reached: {reason}");
        }
        Some(RDKafkaErrorCode::Authentication) => {
            tracing::error!(target: "librdkafka", "Kafka refuses the user or the password: {reason}");
        }
        _ => tracing::debug!(target: "librdkafka", %error, "{reason}"),
    }
}

/// Logs statistics, if `librdkafka: { statistics.interval.ms: … }` asks for them.
pub(crate) fn stats(statistics: &[u8]) {
    tracing::info!(target: "librdkafka::stats", "{}", String::from_utf8_lossy(statistics));
}
