//! Schemas: a compacted topic, which each process reads to its end.

mod store;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lightbus_core::{
    Name, Result, json,
    transport::{Finding, Inspect, Location, SchemaTransport},
};
use rdkafka::message::OwnedHeaders;
use serde_json::value::RawValue;

use crate::{
    SchemaConfig,
    client::{Client, Handle, blocking, discard},
    diagnose, header,
    locate::{self, Readers},
    producer::Outgoing,
    topic::TopicSpec,
};
use store::{ALIVE, Ended, Entry, SchemaStore};

const WHAT: &str = "the schema transport";
const TOPIC: &str = "lightbus.schemas";
/// Shares schemas over a compacted topic.
pub struct KafkaSchemaTransport {
    handle: Handle,
    topic: Name,
    group: String,
    spec: TopicSpec,
    table: Arc<Mutex<SchemaStore>>,
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
            handle: Handle::new(WHAT, client),
            table: Arc::default(),
        }
    }

    fn prefix(&self) -> &str {
        self.topic.strip_suffix(TOPIC).unwrap_or_default()
    }

    async fn put(&self, key: String, value: Vec<u8>, ttl: Duration) -> Result<()> {
        let client = self.handle.client()?;
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

    /// Reads what was stored since the last time, and calls `look` with all schemas.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&HashMap<String, Entry>) -> T + Send + 'static,
    ) -> Result<T> {
        let client = Arc::clone(self.handle.client()?);
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

#[async_trait]
impl SchemaTransport for KafkaSchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        self.put(api.to_owned(), schema.get().as_bytes().to_vec(), ttl).await.map_err(|error| {
            // Storing the same schema twice does no harm.
            if error.is_temporary() { error.retry(lightbus_core::Retry::Safe) } else { error }
        })
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        let wanted = api.to_owned();
        let lives = self
            .look(move |schemas| schemas.get(&wanted).is_some_and(|entry| entry.living().is_some()))
            .await?;
        if lives {
            self.put(format!("{ALIVE}{api}"), b"1".to_vec(), ttl).await?;
        }
        Ok(lives)
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
                        schema = json::excerpt(raw),
                        "a schema on the bus is not JSON"
                    ),
                }
            }
            found
        })
        .await
    }
}

lightbus_core::impl_transport!(KafkaSchemaTransport {
    capabilities: |_| crate::CAPABILITIES,
    inspect: |transport| transport,
    on_close: |transport| {
        // In a thread of its own, because a read may hold the lock for a while.
        let table = Arc::clone(&transport.table);
        discard(Ended(table));
    },
});

impl Drop for KafkaSchemaTransport {
    fn drop(&mut self) {
        discard(Ended(Arc::clone(&self.table)));
    }
}

#[async_trait]
impl Inspect for KafkaSchemaTransport {
    async fn locate(&self, _api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client()?;
        let what = "all schemas (a compacted topic)";
        Ok(vec![locate::topic(client, what, &self.topic, Readers::None).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client()?, self.prefix()).await
    }
}
