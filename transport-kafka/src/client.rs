//! What the transports of a process share for one cluster: a producer, an admin client that creates
//! topics, and a consumer that reads metadata.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use lightbus_core::{Error, ErrorKind, Result, Retry, SharedClient, Users};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier},
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
};

use crate::{
    NAME,
    context::{Logging, Refusals},
    diagnose::Cluster,
    endpoint::Endpoint,
    error::{Sent, code, from_code, from_kafka, is_unknown_topic},
    producer::{Outgoing, Placed, Producer},
    reader::{Reader, ReaderContext},
    topic::{self, TopicSpec, Topics},
};

/// One Kafka cluster, shared by all transports with equal connection options. Connects when it is used.
pub(crate) struct Client {
    endpoint: Endpoint,
    state: Mutex<State>,
    users: Users,
    topics: Topics,
    refusals: Arc<Refusals>,
}

#[derive(Default)]
struct State {
    producer: Option<Arc<Producer>>,
    admin: Option<Arc<AdminClient<Logging>>>,
    /// Reads metadata. Unlike a producer, it never makes Kafka create a topic.
    metadata: Option<Arc<MetadataClient>>,
}

type MetadataClient = BaseConsumer<ReaderContext>;

impl Client {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            state: Mutex::default(),
            users: Users::default(),
            topics: Topics::default(),
            refusals: Arc::default(),
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn broker(&self) -> &str {
        &self.endpoint.broker
    }

    /// Returns the producer. It is replaced only after a fatal error.
    pub(crate) fn producer(&self) -> Result<Arc<Producer>> {
        let mut state = self.state();
        if let Some(producer) = state.producer.as_ref().filter(|producer| !producer.is_broken()) {
            return Ok(Arc::clone(producer));
        }
        let made = Producer::new(&self.endpoint.producer(), &self.refusals)
            .map_err(|error| from_kafka(error, self.broker(), Sent::Harmless))?;
        let made = Arc::new(made);
        discard(state.producer.replace(Arc::clone(&made)));
        Ok(made)
    }

    pub(crate) fn admin(&self) -> Result<Arc<AdminClient<Logging>>> {
        let mut state = self.state();
        if let Some(admin) = &state.admin {
            return Ok(Arc::clone(admin));
        }
        let made = AdminClient::from_config_and_context(&self.endpoint.admin(), self.logging())
            .map_err(|error| from_kafka(error, self.broker(), Sent::Harmless))?;
        Ok(Arc::clone(state.admin.insert(Arc::new(made))))
    }

    fn metadata(&self) -> Result<Arc<MetadataClient>> {
        let mut state = self.state();
        if let Some(metadata) = &state.metadata {
            return Ok(Arc::clone(metadata));
        }
        let mut config = self.endpoint.admin();
        config.set("allow.auto.create.topics", "false");
        let made = BaseConsumer::from_config_and_context(&config, self.context())
            .map_err(|error| from_kafka(error, self.broker(), Sent::Harmless))?;
        Ok(Arc::clone(state.metadata.insert(Arc::new(made))))
    }

    /// Returns a consumer that reads under the name of this group without being a member, or reads the
    /// group's offsets.
    pub(crate) fn reader(&self, group: &str) -> Result<Reader> {
        let mut config = self.endpoint.consumer(group);
        config.set("enable.partition.eof", "true").set("fetch.wait.max.ms", "100");
        let consumer = BaseConsumer::from_config_and_context(&config, self.context())
            .map_err(|error| from_kafka(error, self.broker(), Sent::Harmless))?;
        Ok(Reader {
            consumer,
            timeout: self.endpoint.timeout,
            broker: self.endpoint.broker.clone(),
        })
    }

    fn logging(&self) -> Logging {
        Logging(Arc::clone(&self.refusals))
    }

    pub(crate) fn context(&self) -> ReaderContext {
        ReaderContext(Arc::clone(&self.refusals))
    }

    /// Returns the reason instead, if brokers refused this client since then.
    fn explain(&self, error: Error, began: std::time::Instant) -> Error {
        self.refusals.explain(error, began, self.broker())
    }

    /// Makes sure that a topic exists, and returns the number of its partitions.
    pub(crate) async fn topic(&self, name: &str, spec: &TopicSpec) -> Result<i32> {
        let cell = self.topics.cell(name);
        if let Some(count) = cell.get() {
            return Ok(*count);
        }
        let began = std::time::Instant::now();
        let made = cell.get_or_try_init(|| self.find_or_make(name, spec)).await.copied();
        made.map_err(|error| self.explain(error, began))
    }

    async fn find_or_make(&self, name: &str, spec: &TopicSpec) -> Result<i32> {
        let refused = if spec.creates() {
            let admin = self.admin()?;
            topic::create(&admin, name, spec, self.endpoint.timeout, self.broker()).await?
        } else {
            None
        };
        let producer = self.producer()?;
        let (owned, broker) = (name.to_owned(), self.broker().to_owned());
        let timeout = self.endpoint.timeout;
        let made = spec.creates() && refused.is_none();
        let found = blocking(move || {
            if made {
                topic::await_partitions(producer.client(), &owned, timeout, &broker).map(Some)
            } else {
                topic::partitions(producer.client(), &owned, timeout, &broker)
            }
        })
        .await??;
        match (found, refused) {
            (Some(count), _) => Ok(count),
            (None, Some(refused)) => Err(refused),
            (None, None) => Err(Error::new(
                ErrorKind::Config,
                "the topic does not exist, and `create_topics` is off",
            )
            .with("topic", name)
            .with("broker", format_args!("kafka {}", self.broker()))),
        }
    }

    /// Returns the number of a topic's partitions without creating it; `None` if it does not exist.
    pub(crate) async fn existing(&self, name: &str) -> Result<Option<i32>> {
        if let Some(count) = self.topics.partitions(name) {
            return Ok(Some(count));
        }
        self.existing_now(name).await
    }

    async fn existing_now(&self, name: &str) -> Result<Option<i32>> {
        let began = std::time::Instant::now();
        let metadata = self.metadata()?;
        let (owned, broker, timeout) =
            (name.to_owned(), self.broker().to_owned(), self.endpoint.timeout);
        blocking(move || {
            let found = topic::partitions(metadata.client(), &owned, timeout, &broker);
            drain(&metadata);
            found
        })
        .await?
        .map_err(|error| self.explain(error, began))
    }

    /// Returns the brokers and all topics.
    pub(crate) async fn cluster(&self) -> Result<Cluster> {
        let metadata = self.metadata()?;
        let (broker, timeout) = (self.broker().to_owned(), self.endpoint.timeout);
        blocking(move || {
            let found = metadata.client().fetch_metadata(None, timeout);
            drain(&metadata);
            let found = found.map_err(|error| from_kafka(error, &broker, Sent::Harmless))?;
            Ok(topic::cluster(&found))
        })
        .await?
    }

    /// Returns the settings of a topic or a broker.
    pub(crate) async fn describe(&self, of: &ResourceSpecifier<'_>) -> Result<ConfigResource> {
        let options = AdminOptions::new().request_timeout(Some(self.endpoint.timeout));
        let mut answers = self
            .admin()?
            .describe_configs([of], &options)
            .await
            .map_err(|error| from_kafka(error, self.broker(), Sent::Harmless))?;
        match answers.pop() {
            Some(Ok(settings)) => Ok(settings),
            Some(Err(code)) => Err(from_code(code, self.broker(), Sent::Harmless)),
            None => Err(Error::new(ErrorKind::Unexpected, "Kafka did not return the settings")),
        }
    }

    /// Deletes the records before this offset from a topic's first partition.
    pub(crate) async fn empty(&self, topic: &str, before: i64) -> Result<()> {
        let admin = self.admin()?;
        let mut list = TopicPartitionList::new();
        let error = |error| from_kafka(error, self.broker(), Sent::Harmless);
        list.add_partition_offset(topic, 0, Offset::Offset(before)).map_err(error)?;
        let options = AdminOptions::new()
            .request_timeout(Some(self.endpoint.timeout))
            .operation_timeout(Some(self.endpoint.timeout));
        let answer = admin.delete_records(&list, &options).await.map_err(error)?;
        crate::reader::check(&answer).map_err(error)
    }

    /// Sends records, and waits until all of them are confirmed.
    pub(crate) async fn send(&self, records: Vec<Outgoing>) -> Result<Vec<Placed>> {
        let producer = self.producer()?;
        let topic = records.first().map(|record| Arc::clone(&record.topic));
        producer.send(records).await.map_err(|error| {
            if let (Some(topic), Some(code)) = (topic, code(&error))
                && is_unknown_topic(code)
            {
                self.topics.forget(&topic);
            }
            from_kafka(error, self.broker(), Sent::Maybe)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Discards the events of a consumer that reads only metadata, so that they do not pile up.
fn drain(metadata: &MetadataClient) {
    while metadata.poll(Duration::ZERO).is_some() {}
}

/// The topic whose metadata is read to check that a broker answers.
const PROBE: &str = "lightbus.probe";

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.broker()).finish()
    }
}

/// Drops a value whose destructor blocks in a thread of its own.
pub(crate) fn discard<T: Send + 'static>(what: T) {
    // If no thread can be started, it is dropped here.
    let _ = std::thread::Builder::new().name("lightbus-kafka-end".into()).spawn(move || drop(what));
}

/// Runs work that blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Error::new(ErrorKind::Unavailable, "the runtime is shutting down")
            .retry(Retry::Safe)
            .because(error)
    })
}

pub(crate) type User = lightbus_core::User<Client>;
pub(crate) type Handle = lightbus_core::Handle<Client>;

impl SharedClient for Client {
    const NAME: &'static str = NAME;
    const BROKER: &'static str = "Kafka";

    fn address(&self) -> String {
        self.broker().to_owned()
    }

    async fn check(&self) -> Result<()> {
        // Of one topic: the metadata of all would be much.
        self.existing_now(PROBE).await.map(drop)
    }

    fn users(&self) -> &Users {
        &self.users
    }

    fn release(&self) {
        let State { producer, admin, metadata } = std::mem::take(&mut *self.state());
        if producer.is_some() || admin.is_some() || metadata.is_some() {
            discard((producer, admin, metadata));
        }
    }
}
