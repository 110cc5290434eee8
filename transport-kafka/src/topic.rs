//! Topics: how they are created, and their legal names.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use lightbus_core::{Error, ErrorKind, Name, Result, time::after};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::{Client as RdClient, ClientContext},
    error::RDKafkaErrorCode as Code,
    metadata::Metadata,
};
use tokio::{sync::OnceCell, time::Instant};

use crate::{
    config::TopicConfig,
    context::Logging,
    diagnose::{Cluster, Topic},
    endpoint::ms,
    error::{Sent, from_code, from_kafka, is_refusal, is_unknown_topic, text},
};

/// The wait before a new topic is looked for again, while not all brokers know it.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// How to create a topic.
#[derive(Clone, Debug)]
pub(crate) struct TopicSpec {
    create: bool,
    partitions: i32,
    replication: i32,
    settings: Vec<(String, String)>,
}

impl TopicSpec {
    pub(crate) fn new(config: &TopicConfig) -> Self {
        let mut settings: Vec<_> = config
            .settings
            .iter()
            .map(|(name, value)| (name.clone(), value.reveal().to_owned()))
            .collect();
        if let Some(replicas) = config.min_insync_replicas {
            settings.push(("min.insync.replicas".into(), replicas.to_string()));
        }
        Self {
            create: config.create,
            partitions: i32::try_from(config.partitions).unwrap_or(i32::MAX),
            // The broker's own default.
            replication: config.replication.map_or(-1, i32::from),
            settings,
        }
    }

    pub(crate) fn creates(&self) -> bool {
        self.create
    }

    pub(crate) fn one_partition(mut self) -> Self {
        self.partitions = 1;
        self
    }

    /// Sets a setting, unless the options set it.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        if self.settings.iter().all(|(known, _)| known != name) {
            self.settings.push((name.to_owned(), value.into()));
        }
        self
    }

    pub(crate) fn kept_for(self, time: Option<Duration>) -> Self {
        match time {
            Some(time) => {
                // Kafka removes whole segments, so that a segment must not grow older than that.
                let segment =
                    time.clamp(Duration::from_secs(60), Duration::from_secs(7 * 24 * 3600));
                self.with("retention.ms", ms_long(time)).with("segment.ms", ms(segment))
            }
            None => self,
        }
    }
}

fn ms_long(time: Duration) -> String {
    time.as_millis().clamp(1, 1 << 62).to_string()
}

/// The number of partitions of each topic that is known.
#[derive(Debug, Default)]
pub(crate) struct Topics(Mutex<HashMap<Name, Arc<OnceCell<i32>>>>);

impl Topics {
    /// Returns the cell of a topic's number of partitions, which the first caller fills.
    pub(crate) fn cell(&self, topic: &str) -> Arc<OnceCell<i32>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = known.get(topic) {
            return Arc::clone(cell);
        }
        Arc::clone(known.entry(topic.into()).or_default())
    }

    /// Returns the number of partitions, if it is known.
    pub(crate) fn partitions(&self, topic: &str) -> Option<i32> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(topic).and_then(|cell| cell.get().copied())
    }

    /// Forgets a topic, which may have been deleted.
    pub(crate) fn forget(&self, topic: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }
}

/// Creates a topic, unless it exists. Returns the refusal if the user lacks the right to: the topic may
/// exist all the same.
pub(crate) async fn create(
    admin: &AdminClient<Logging>,
    topic: &str,
    spec: &TopicSpec,
    timeout: Duration,
    broker: &str,
) -> Result<Option<Error>> {
    let mut new = NewTopic::new(topic, spec.partitions, TopicReplication::Fixed(spec.replication));
    for (name, value) in &spec.settings {
        new = new.set(name, value);
    }
    let options =
        AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout));
    let mut answers = admin
        .create_topics(&[new], &options)
        .await
        .map_err(|error| from_kafka(error, broker, Sent::Harmless))?;
    match answers.pop() {
        Some(Err((_, Code::TopicAlreadyExists))) | Some(Ok(_)) => Ok(None),
        Some(Err((_, code))) => {
            let error = from_code(code, broker, Sent::Harmless).with("topic", topic);
            if is_refusal(code) { Ok(Some(error)) } else { Err(error) }
        }
        None => {
            Err(Error::new(ErrorKind::Unexpected, "Kafka did not say whether it created the topic"))
        }
    }
}

/// Returns the number of a topic's partitions; `None` if it does not exist. Blocks.
pub(crate) fn partitions<C: ClientContext>(
    client: &RdClient<C>,
    topic: &str,
    timeout: Duration,
    broker: &str,
) -> Result<Option<i32>> {
    let found = client
        .fetch_metadata(Some(topic), timeout)
        .map_err(|error| from_kafka(error, broker, Sent::Harmless))?;
    let Some(found) = found.topics().iter().find(|found| found.name() == topic) else {
        return Ok(None);
    };
    if let Some(error) = found.error() {
        let code = Code::from(error);
        if is_unknown_topic(code) {
            return Ok(None);
        }
        return Err(from_code(code, broker, Sent::Harmless).with("topic", topic));
    }
    // A topic that is being created has partitions without a leader, or no partitions.
    if found.partitions().is_empty() || found.partitions().iter().any(|part| part.leader() < 0) {
        return Err(
            from_code(Code::LeaderNotAvailable, broker, Sent::Harmless).with("topic", topic)
        );
    }
    Ok(i32::try_from(found.partitions().len()).ok())
}

/// Reads the metadata of brokers and topics.
pub(crate) fn cluster(found: &Metadata) -> Cluster {
    let topics = found.topics().iter().map(|topic| {
        let parts = topic.partitions();
        let refused = topic.error().map(|error| text(Code::from(error)));
        Topic {
            name: topic.name().to_owned(),
            replicas: parts.iter().map(|part| part.replicas().len()).min().unwrap_or(0),
            in_sync: parts.iter().map(|part| part.isr().len()).min().unwrap_or(0),
            has_leaders: parts.iter().all(|part| part.leader() >= 0),
            refused,
        }
    });
    Cluster {
        brokers: found.brokers().iter().map(|broker| broker.id()).collect(),
        topics: topics.collect(),
    }
}

/// Returns the number of a topic's partitions, and waits until the topic is known. Blocks.
pub(crate) fn await_partitions<C: ClientContext>(
    client: &RdClient<C>,
    topic: &str,
    timeout: Duration,
    broker: &str,
) -> Result<i32> {
    let deadline = after(Instant::now(), timeout);
    loop {
        let found = partitions(client, topic, timeout, broker);
        match found {
            Ok(Some(count)) => return Ok(count),
            Ok(None) if Instant::now() >= deadline => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "Kafka does not know the topic yet",
                )
                .with("topic", topic)
                .with("broker", format_args!("kafka {broker}")));
            }
            Err(error) if !error.is_temporary() || Instant::now() >= deadline => return Err(error),
            _ => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Returns a name that Kafka accepts: letters, digits, `.`, `_` and `-`. Any other character becomes
/// its code point between double underscores. Two names that become the same share a topic, which does
/// no harm: each record names its API.
pub(crate) fn legal(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-') {
            out.push(letter);
        } else {
            // Writing to memory does not fail.
            let _ = write!(out, "__{:x}__", u32::from(letter));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::legal;

    #[test]
    fn names_become_legal() {
        assert_eq!(legal("shop.till-1_x"), "shop.till-1_x");
        assert_eq!(legal("größe"), "gr__f6____df__e");
    }
}
