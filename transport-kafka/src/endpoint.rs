//! The options of the connection, checked and turned into settings of librdkafka. Nothing connects here.

use std::{fmt, time::Duration};

use lightbus_core::{Error, Result};
use rdkafka::{ClientConfig, config::RDKafkaLogLevel, error::KafkaError};

use crate::config::{ConnectionConfig, Setting};

/// Settings that `librdkafka` may not contain, and why.
const RESERVED: &[(&str, &str)] = &[
    ("acks", "an event is confirmed when all in-sync replicas have it"),
    ("request.required.acks", "an event is confirmed when all in-sync replicas have it"),
    ("enable.idempotence", "without it a record may be stored twice, and out of order"),
    ("max.in.flight", "more in flight would lose the order"),
    ("max.in.flight.requests.per.connection", "more in flight would lose the order"),
    ("retries", "without retries a broker's restart would lose records"),
    ("message.send.max.retries", "without retries a broker's restart would lose records"),
    ("transactional.id", "lightbus writes no transactions"),
    ("enable.auto.commit", "an offset is committed when its event is settled, not before"),
    ("enable.auto.offset.store", "an offset is committed when its event is settled, not before"),
    ("auto.offset.reset", "each listener chooses where it starts"),
    ("enable.partition.eof", "lightbus sets it where it needs it"),
    ("allow.auto.create.topics", "topics are created with the options of this configuration"),
    ("group.id", "groups are named by service and listener"),
    ("group.instance.id", "a member that leaves must leave its group at once"),
    ("group.protocol", "partitions are revoked one by one, when their events are settled"),
    ("group.remote.assignor", "partitions are revoked one by one, when their events are settled"),
    (
        "partition.assignment.strategy",
        "partitions are revoked one by one, when their events are settled",
    ),
    ("bootstrap.servers", "use the option `brokers`"),
    ("metadata.broker.list", "use the option `brokers`"),
    ("client.id", "use the option `client_id`"),
    ("message.timeout.ms", "use the option `send_timeout`"),
    ("delivery.timeout.ms", "use the option `send_timeout`"),
    ("session.timeout.ms", "use the option `session_timeout`"),
    ("heartbeat.interval.ms", "it follows from the option `session_timeout`"),
    ("fetch.wait.max.ms", "use the option `fetch_wait`"),
];

/// How to reach a cluster, and the settings of its clients.
#[derive(Clone)]
pub(crate) struct Endpoint {
    config: ClientConfig,
    /// How long a request may take.
    pub(crate) timeout: Duration,
    /// How long a record may wait for its confirmation.
    pub(crate) send_timeout: Duration,
    /// The brokers' addresses, without secrets: for logs and errors.
    pub(crate) broker: String,
}

impl Endpoint {
    /// Checks the options. `path` is their place in the configuration, for errors.
    pub(crate) fn new(path: &str, options: &ConnectionConfig) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", options.brokers.as_str())
            .set("client.id", &options.client_id)
            // A small record must not wait for others.
            .set("socket.nagle.disable", "true")
            .set("socket.keepalive.enable", "true")
            .set("socket.timeout.ms", ms(options.timeout.max(Duration::from_secs(10))))
            .set(
                "socket.connection.setup.timeout.ms",
                ms(options.timeout.max(Duration::from_secs(1))),
            )
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "1000")
            .set("retry.backoff.ms", "50")
            .set("topic.metadata.refresh.interval.ms", "30000")
            .set("topic.metadata.refresh.fast.interval.ms", "50");
        secure(path, options, &mut config)?;
        for (name, value) in &options.librdkafka {
            check(path, name, value)?;
            config.set(name, value.reveal());
        }
        config.create_native_config().map_err(|error| refused(path, &error))?;
        Ok(Self {
            config,
            timeout: options.timeout,
            send_timeout: options.send_timeout,
            broker: options.brokers.as_str().to_owned(),
        })
    }

    /// Returns the settings of a producer.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut config = self.config.clone();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", ms(self.send_timeout));
        self.unless_set(&mut config, "linger.ms", &["queue.buffering.max.ms"], "0");
        // As in Java, so that every client sends a key to the same partition. Without a key, to any.
        self.unless_set(&mut config, "partitioner", &[], "murmur2_random");
        self.unless_set(&mut config, "sticky.partitioning.linger.ms", &[], "0");
        config
    }

    /// Returns the settings of an admin client.
    pub(crate) fn admin(&self) -> ClientConfig {
        self.config.clone()
    }

    /// Returns the settings of a consumer under the name of this group.
    pub(crate) fn consumer(&self, group: &str) -> ClientConfig {
        let mut config = self.config.clone();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false");
        for (name, value) in [
            ("fetch.error.backoff.ms", "50"),
            ("fetch.queue.backoff.ms", "5"),
            ("queued.min.messages", "20000"),
            ("queued.max.messages.kbytes", "16384"),
        ] {
            self.unless_set(&mut config, name, &[], value);
        }
        config
    }

    /// Returns the settings of a member of this group.
    pub(crate) fn member(
        &self,
        group: &str,
        session_timeout: Duration,
        fetch_wait: Duration,
    ) -> ClientConfig {
        let heartbeat =
            (session_timeout / 10).clamp(Duration::from_millis(50), Duration::from_secs(1));
        let mut config = self.consumer(group);
        config
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("session.timeout.ms", ms(session_timeout))
            .set("heartbeat.interval.ms", ms(heartbeat))
            .set("fetch.wait.max.ms", ms(fetch_wait));
        config
    }

    fn unless_set(&self, config: &mut ClientConfig, name: &str, also: &[&str], value: &str) {
        if self.config.get(name).is_none()
            && also.iter().all(|name| self.config.get(name).is_none())
        {
            config.set(name, value);
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Other settings may be passwords.
        f.debug_tuple("Endpoint").field(&self.broker).finish()
    }
}

/// Sets encryption and authentication.
fn secure(path: &str, options: &ConnectionConfig, config: &mut ClientConfig) -> Result<()> {
    let protocol = match (&options.tls, &options.sasl) {
        (None, None) => return Ok(()),
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    let scrambles =
        options.sasl.as_ref().is_some_and(|sasl| sasl.mechanism != crate::SaslMechanism::Plain);
    if !cfg!(feature = "tls") && (options.tls.is_some() || scrambles) {
        let option = if options.tls.is_some() { "tls" } else { "sasl.mechanism" };
        return Err(Error::config(
            format!("{path}.{option}"),
            "this needs the cargo feature `tls` of lightbus-transport-kafka, which is not compiled in",
        )
        .hint("Enable the feature `kafka-tls` of lightbus"));
    }
    config.set("security.protocol", protocol);
    if let Some(tls) = &options.tls {
        for (name, value) in [
            ("ssl.ca.location", &tls.ca_file),
            ("ssl.certificate.location", &tls.cert_file),
            ("ssl.key.location", &tls.key_file),
        ] {
            if let Some(value) = value {
                config.set(name, value);
            }
        }
        if let Some(password) = &tls.key_password {
            config.set("ssl.key.password", password.reveal());
        }
    }
    if let Some(sasl) = &options.sasl {
        config
            .set("sasl.mechanisms", sasl.mechanism.as_str())
            .set("sasl.username", &sasl.username)
            .set("sasl.password", sasl.password.reveal());
    }
    Ok(())
}

/// Refuses settings that would break a guarantee, and settings that librdkafka does not know.
fn check(path: &str, name: &str, value: &Setting) -> Result<()> {
    let at = || format!("{path}.librdkafka.{name}");
    if let Some((_, why)) = RESERVED.iter().find(|(reserved, _)| *reserved == name) {
        return Err(Error::config(at(), format!("`{name}` may not be set here: {why}")));
    }
    let mut alone = ClientConfig::new();
    alone.set(name, value.reveal());
    match alone.create_native_config() {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(Error::config(at(), format!("librdkafka refuses this setting: {}", reason(&error))))
        }
    }
}

fn refused(path: &str, error: &KafkaError) -> Error {
    Error::config(path, format!("librdkafka refuses the options: {}", reason(error)))
}

/// Returns the reason without the value, which may be a secret.
fn reason(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, name, _) => format!("{name}: {}", why.replace('\n', " ")),
        other => other.to_string(),
    }
}

/// A duration in librdkafka's milliseconds.
pub(crate) fn ms(time: Duration) -> String {
    time.as_millis().clamp(1, 2_000_000_000).to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lightbus_core::{ConfigSection, ErrorKind, TransportFactory};
    use serde_json::json;

    use crate::KafkaFactory;

    fn error(options: serde_json::Value) -> String {
        let section = ConfigSection::new("apis.default.event_transport.kafka", options);
        let error = KafkaFactory::default().event(&section).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        error.to_string()
    }

    #[test]
    fn settings_that_break_a_guarantee_are_refused_with_the_reason() {
        for name in ["acks", "enable.idempotence", "enable.auto.commit", "group.id"] {
            let text = error(json!({"librdkafka": {name: "1"}}));
            assert!(
                text.contains(&format!("apis.default.event_transport.kafka.librdkafka.{name}")),
                "{text}"
            );
            assert!(text.contains("may not be set"), "{text}");
        }
    }

    #[test]
    fn unknown_settings_and_bad_values_are_refused_without_the_value() {
        let text = error(json!({"librdkafka": {"no.such.thing": "geheim"}}));
        assert!(text.contains("no.such.thing") && !text.contains("geheim"), "{text}");
        let text = error(json!({"librdkafka": {"linger.ms": "geheim"}}));
        assert!(text.contains("linger.ms") && !text.contains("geheim"), "{text}");
    }

    #[test]
    fn unknown_options_are_refused_with_their_path() {
        let text = error(json!({"broker": "localhost:9092"}));
        assert!(text.contains("broker") && text.contains("event_transport.kafka"), "{text}");
    }

    #[test]
    fn settings_may_be_strings_numbers_and_booleans() {
        let options = json!({"brokers": ["a:1", "b:2"], "librdkafka":
            {"linger.ms": 2, "compression.type": "lz4", "socket.keepalive.enable": false}});
        let section = ConfigSection::new("kafka", options);
        assert_eq!(KafkaFactory::default().event(&section).unwrap().broker(), "a:1,b:2");
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn encryption_that_is_not_compiled_in_is_refused() {
        assert!(error(json!({"tls": {}})).contains("feature `tls`"));
        let sasl = json!({"mechanism": "SCRAM-SHA-512", "username": "u", "password": "geheim"});
        let text = error(json!({"sasl": sasl}));
        assert!(text.contains("feature `tls`") && !text.contains("geheim"), "{text}");
    }
}
