//! What librdkafka says by itself: log lines, and why brokers will not have us.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use lightbus_core::{Error, ErrorKind};
use rdkafka::{
    client::ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
};

/// Who is refused is tried again within this time, and refused again.
const AGAIN: Duration = Duration::from_secs(2);

/// Why brokers last would not have us: an operation only learns that it found none.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<Option<(Instant, RDKafkaErrorCode, String)>>);

impl Refusals {
    /// Takes the reason from a line of the log: as an error it is not told to everybody.
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

    /// The reason why something failed that began then, if it is that.
    pub(crate) fn explain(&self, error: Error, began: Instant, broker: &str) -> Error {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((at, code, reason)) = &*last else { return error };
        if !error.is_temporary() || *at + AGAIN < began {
            return error;
        }
        let (what, cure) = if *code == RDKafkaErrorCode::SSL {
            (
                "no encrypted connection comes about",
                "Is `tls.ca_file` the authority of the broker's certificate, and does the broker encrypt at this port?",
            )
        } else {
            (
                "Kafka refuses the user or the password",
                "Put them into `sasl` with the broker's mechanism, and encrypt with `tls` if the brokers ask for it",
            )
        };
        Error::new(ErrorKind::Config, format!("{what}: {reason}"))
            .with("broker", format_args!("kafka {broker}"))
            .hint(cure)
    }
}

/// A client without more duties than to log.
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
