//! Schemas: a compacted topic, read to its end.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Name, Result, Transport,
    transport::{Finding, Inspect, Location, SchemaTransport},
};
use rdkafka::{Message, message::OwnedHeaders};
use serde_json::value::RawValue;

use crate::{
    NAME, SchemaConfig,
    client::{Client, Handle, blocking, discard},
    diagnose,
    header::{self, Found},
    inspect::{self, Readers},
    produce::Outgoing,
    range::{Reader, time_of},
    topic::TopicSpec,
    wire,
};

const WHAT: &str = "the schema transport";
const TOPIC: &str = "lightbus.schemas";
/// What the key of a record begins with that only lets a schema live longer. No API is called so.
const ALIVE: &str = "alive:";

/// Shares schemas over a compacted topic.
pub struct KafkaSchemaTransport {
    handle: Handle,
    topic: Name,
    group: String,
    spec: TopicSpec,
    table: Arc<Mutex<Table>>,
}

/// What was read of the topic so far.
#[derive(Default)]
struct Table {
    reader: Option<Reader>,
    next: i64,
    schemas: HashMap<String, Entry>,
}

#[derive(Default)]
struct Entry {
    schema: Option<Vec<u8>>,
    expires: Option<SystemTime>,
}

impl KafkaSchemaTransport {
    pub(crate) fn new(client: Arc<Client>, config: &SchemaConfig) -> Self {
        let topics = config.topics();
        Self {
            topic: format!("{}{TOPIC}", topics.prefix).into(),
            group: format!("{}lightbus.readers", topics.prefix),
            spec: TopicSpec::new(&topics)
                .one_partition()
                .kept_for(Some(config.retention.0))
                .with("cleanup.policy", "compact,delete")
                .with("message.timestamp.type", "LogAppendTime"),
            handle: Handle::new(client),
            table: Arc::default(),
        }
    }

    fn prefix(&self) -> &str {
        self.topic.strip_suffix(TOPIC).unwrap_or_default()
    }

    async fn put(&self, key: String, value: Vec<u8>, ttl: Duration) -> Result<()> {
        let client = self.handle.client(WHAT)?;
        client.topic(&self.topic, &self.spec).await?;
        let headers =
            header::add(OwnedHeaders::new(), header::TTL_MS, &ttl.as_millis().to_string());
        let record = Outgoing {
            topic: Name::clone(&self.topic),
            partition: Some(0),
            key: Some(key.into()),
            payload: Some(value),
            headers: Some(headers),
        };
        client.send(vec![record]).await.map(drop)
    }

    /// Reads what came since, and looks at the whole.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&HashMap<String, Entry>) -> T + Send + 'static,
    ) -> Result<T> {
        let client = Arc::clone(self.handle.client(WHAT)?);
        client.topic(&self.topic, &self.spec).await?;
        let (table, topic, group) =
            (Arc::clone(&self.table), Name::clone(&self.topic), self.group.clone());
        blocking(move || {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.catch_up(&client, &topic, &group)?;
            Ok(look(&table.schemas))
        })
        .await?
    }
}

impl Table {
    fn catch_up(&mut self, client: &Client, topic: &str, group: &str) -> Result<()> {
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => client.reader(group)?,
        };
        let reader = self.reader.insert(reader);
        let (low, high) = reader.bounds(topic, 0)?;
        if high < self.next {
            // The topic was made anew.
            self.schemas.clear();
            self.next = 0;
        }
        let schemas = &mut self.schemas;
        let mut next = self.next;
        let read = reader.read(topic, 0, self.next.max(low), high, |record| {
            next = record.offset() + 1;
            note(schemas, record);
        });
        self.next = if read.is_ok() { high } else { next };
        read
    }
}

fn note<M: Message>(schemas: &mut HashMap<String, Entry>, record: &M) {
    let Some(key) = record.key().and_then(|key| std::str::from_utf8(key).ok()) else { return };
    let (api, stored) = match key.strip_prefix(ALIVE) {
        Some(api) => (api, false),
        None => (key, true),
    };
    let ttl = Found::read(record, [header::TTL_MS])
        .get(header::TTL_MS)
        .and_then(|text| text.parse().ok())
        .map(Duration::from_millis);
    let expires = ttl.and_then(|ttl| time_of(record).checked_add(ttl));
    let entry = schemas.entry(api.to_owned()).or_default();
    entry.expires = expires;
    if stored {
        entry.schema = record.payload().map(<[u8]>::to_vec);
    }
}

impl Entry {
    fn living(&self) -> Option<&[u8]> {
        let lives = self.expires.is_none_or(|expires| expires > SystemTime::now());
        self.schema.as_deref().filter(|_| lives)
    }
}

#[async_trait]
impl SchemaTransport for KafkaSchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        self.put(api.to_owned(), schema.get().as_bytes().to_vec(), ttl).await.map_err(|error| {
            // The same again does no harm.
            let error =
                if error.is_temporary() { error.retry(lightbus_core::Retry::Safe) } else { error };
            error.during(format!("storing the schema of {api}"))
        })
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        let renewed = async {
            let wanted = api.to_owned();
            let lives = self
                .look(move |schemas| {
                    schemas.get(&wanted).is_some_and(|entry| entry.living().is_some())
                })
                .await?;
            if lives {
                self.put(format!("{ALIVE}{api}"), b"1".to_vec(), ttl).await?;
            }
            Ok(lives)
        };
        renewed.await.map_err(|error: lightbus_core::Error| {
            error.during(format!("renewing the schema of {api}"))
        })
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        self.look(|schemas| {
            let mut found = BTreeMap::new();
            for (api, entry) in schemas {
                let Some(raw) = entry.living() else { continue };
                match serde_json::from_slice::<Box<RawValue>>(raw) {
                    Ok(schema) => {
                        found.insert(api.clone(), schema);
                    }
                    Err(error) => tracing::warn!(
                        %error,
                        api,
                        schema = wire::excerpt(raw),
                        "a schema on the bus is not JSON"
                    ),
                }
            }
            found
        })
        .await
        .map_err(|error| error.during("loading the schemas"))
    }
}

#[async_trait]
impl Transport for KafkaSchemaTransport {
    fn name(&self) -> &'static str {
        NAME
    }

    fn broker(&self) -> String {
        self.handle.broker()
    }

    fn capabilities(&self) -> Capabilities {
        crate::capabilities()
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    async fn open(&self) -> Result<()> {
        self.handle.open(WHAT).await
    }

    async fn close(&self) -> Result<()> {
        self.handle.close();
        // In a thread of its own: one who reads holds it for a while.
        let table = Arc::clone(&self.table);
        discard(Ended(table));
        Ok(())
    }
}

/// Ends the reader when it is dropped.
struct Ended(Arc<Mutex<Table>>);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).reader.take());
    }
}

impl Drop for KafkaSchemaTransport {
    fn drop(&mut self) {
        discard(Ended(Arc::clone(&self.table)));
    }
}

#[async_trait]
impl Inspect for KafkaSchemaTransport {
    async fn locate(&self, _api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client(WHAT)?;
        let what = "all schemas (a compacted topic)";
        Ok(vec![inspect::topic(client, what, &self.topic, Readers::None).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client(WHAT)?, self.prefix()).await
    }
}

impl fmt::Debug for KafkaSchemaTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSchemaTransport")
            .field("broker", &self.handle.broker())
            .finish_non_exhaustive()
    }
}
