//! Schemas: a key for each API, which expires, and a set of all their names.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use lightbus_core::{
    Capabilities, Result, Transport,
    transport::{Finding, Inspect, Location, SchemaTransport},
};
use redis::{Pipeline, Value};
use serde_json::value::RawValue;

use crate::{
    NAME,
    client::{Client, Handle},
    diagnose,
    error::{Sent, from_redis, odd_answer},
    json, link, locate, value,
};

const WHAT: &str = "the schema transport";
/// The set of the names of all APIs that ever had a schema.
const NAMES: &str = "schemas";

/// Shares schemas in Redis.
#[derive(Debug)]
pub struct RedisSchemaTransport {
    handle: Handle,
}

impl RedisSchemaTransport {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Self { handle: Handle::new(client) }
    }

    /// Sends commands, of which each must succeed.
    async fn run(&self, pipeline: &Pipeline) -> Result<Vec<Value>> {
        let client = self.handle.client(WHAT)?;
        client
            .pipeline(pipeline, Sent::Harmless)
            .await?
            .into_iter()
            .map(|answer| {
                link::answer(answer)
                    .map_err(|error| from_redis(error, client.broker(), Sent::Harmless))
            })
            .collect()
    }
}

#[async_trait]
impl SchemaTransport for RedisSchemaTransport {
    async fn store(&self, api: &str, schema: &RawValue, ttl: Duration) -> Result<()> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("SET").arg(schema_key(api)).arg(schema.get()).arg("PX").arg(milliseconds(ttl));
        pipeline.cmd("SADD").arg(NAMES).arg(api);
        self.run(&pipeline)
            .await
            .map(drop)
            .map_err(|error| error.during(format!("storing the schema of {api}")))
    }

    async fn ping(&self, api: &str, ttl: Duration) -> Result<bool> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.cmd("PEXPIRE").arg(schema_key(api)).arg(milliseconds(ttl));
        let answers = self
            .run(&pipeline)
            .await
            .map_err(|error| error.during(format!("renewing the schema of {api}")))?;
        Ok(answers.first().and_then(value::int) == Some(1))
    }

    async fn load(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        self.read_all().await.map_err(|error| error.during("loading the schemas"))
    }
}

impl RedisSchemaTransport {
    async fn read_all(&self) -> Result<BTreeMap<String, Box<RawValue>>> {
        let mut names = Pipeline::with_capacity(1);
        names.cmd("SMEMBERS").arg(NAMES);
        let names = self.run(&names).await?.pop().and_then(value::items).unwrap_or_default();
        let names: Vec<&str> = names.iter().filter_map(value::text).collect();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut get = Pipeline::with_capacity(1);
        if self.handle.client(WHAT)?.is_cluster() {
            for name in &names {
                get.cmd("GET").arg(schema_key(name));
            }
        } else {
            get.cmd("MGET");
            for name in &names {
                get.arg(schema_key(name));
            }
        }
        let mut found = self.run(&get).await?;
        if let (Some(Value::Array(_)), 1) = (found.first(), found.len()) {
            found = found.pop().and_then(value::items).unwrap_or_default();
        }
        if found.len() != names.len() {
            return Err(odd_answer("MGET", &Value::Array(found)));
        }
        let mut schemas = BTreeMap::new();
        for (name, found) in names.into_iter().zip(found) {
            let Some(raw) = value::bytes(found) else { continue };
            match serde_json::from_slice::<Box<RawValue>>(&raw) {
                Ok(schema) => {
                    schemas.insert(name.to_owned(), schema);
                }
                Err(error) => tracing::warn!(
                    %error,
                    api = name,
                    schema = json::excerpt(&raw),
                    "a schema on the bus is not JSON"
                ),
            }
        }
        Ok(schemas)
    }
}

#[async_trait]
impl Transport for RedisSchemaTransport {
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
        Ok(())
    }
}

#[async_trait]
impl Inspect for RedisSchemaTransport {
    async fn locate(&self, api: &str, _member: Option<&str>) -> Result<Vec<Location>> {
        let client = self.handle.client(WHAT)?;
        Ok(vec![locate::document(client, &schema_key(api)).await?])
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::diagnose(self.handle.client(WHAT)?).await
    }
}

fn schema_key(api: &str) -> String {
    format!("schema:{api}")
}

fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX >> 12).max(1)
}
