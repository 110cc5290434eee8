//! Kafka by rdkafka: what the Kafka transport sends, and nothing else.

pub(crate) mod consume;
pub(crate) mod fire;
pub(crate) mod rpc;

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::{Error, Result, Serve};

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

/// Where a measurement on Kafka takes place.
#[derive(Clone, Debug)]
pub(crate) struct KafkaSite {
    brokers: String,
    prefix: String,
    pub(crate) bytes: usize,
}

impl KafkaSite {
    pub(crate) fn of(serve: &Serve) -> Result<Self> {
        let brokers = serve.kafka.clone().ok_or_else(|| Error::from("--kafka names no broker"))?;
        Ok(Self { brokers, prefix: serve.prefix.clone(), bytes: serve.bytes })
    }

    /// A topic of this measurement.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("socket.nagle.disable", "true");
        config
    }

    /// One that sends, with the settings of the transport.
    pub(crate) fn producer<P: FromClientConfig>(&self) -> Result<P> {
        let mut config = self.config();
        config.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "0");
        Ok(config.set("sticky.partitioning.linger.ms", "0").create()?)
    }

    /// One that reads in a group, with the settings of the transport.
    pub(crate) fn consumer(&self) -> Result<BaseConsumer> {
        let mut config = self.config();
        config
            .set("group.id", &self.prefix)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.min.messages", "20000")
            .set("queued.max.messages.kbytes", "16384");
        Ok(config.create()?)
    }

    /// The same, reading all partitions of a topic from here on, without a group's help.
    pub(crate) fn reader(
        &self,
        topic: &str,
        partitions: i32,
        from: Offset,
    ) -> Result<BaseConsumer> {
        let consumer = self.consumer()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, from)?;
        }
        consumer.assign(&list)?;
        Ok(consumer)
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.config().create()?)
    }

    /// Makes a topic, and waits until its partitions have leaders.
    pub(crate) async fn make(&self, topic: &str, partitions: i32) -> Result<()> {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        let options = AdminOptions::new().operation_timeout(Some(LIMIT));
        let admin = self.admin()?;
        for made in admin.create_topics(&[new], &options).await? {
            made.map_err(|(topic, code)| format!("{topic}: {code}"))?;
        }
        let limit = std::time::Instant::now() + LIMIT;
        loop {
            let found = admin.inner().fetch_metadata(Some(topic), LIMIT)?;
            let ready = found.topics().iter().any(|topic| {
                let parts = topic.partitions();
                parts.len() == usize::try_from(partitions).unwrap_or(0)
                    && parts.iter().all(|part| part.leader() >= 0)
            });
            if ready {
                return Ok(());
            }
            if std::time::Instant::now() >= limit {
                return Err(format!("{topic} has no leaders").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Deletes topics.
    pub(crate) async fn delete(&self, topics: &[&str]) -> Result<()> {
        self.admin()?.delete_topics(topics, &AdminOptions::new()).await?;
        Ok(())
    }
}

/// Headers with these values.
pub(crate) fn headers(all: &[(&str, &str)]) -> OwnedHeaders {
    all.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
        headers.insert(Header { key, value: Some(*value) })
    })
}

/// What an event of the bus has beside its arguments.
pub(crate) fn event_headers() -> OwnedHeaders {
    headers(&[
        ("lightbus-id", "0123456789abcdef0123456789abcdef-0"),
        ("lightbus-api", "bench"),
        ("lightbus-event", "changed"),
        ("lightbus-version", "1"),
        ("lightbus-sent", "1700000000000000"),
    ])
}
