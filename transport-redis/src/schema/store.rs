//! The keys of schemas: written, renewed and read.

use std::{collections::BTreeMap, time::Duration};

use lightbus_core::Result;
use lightbus_core::json;
use redis::{Pipeline, Value};
use serde_json::value::RawValue;

use crate::{
    client::Client,
    error::{Sent, from_redis, odd_answer},
    link, value,
};

/// The set of the names of all APIs that ever had a schema.
const NAMES: &str = "schemas";

/// Returns the key of an API's schema.
pub(super) fn key(api: &str) -> String {
    format!("schema:{api}")
}

/// Stores a schema for as long as `ttl`.
pub(super) async fn store(
    client: &Client,
    api: &str,
    schema: &RawValue,
    ttl: Duration,
) -> Result<()> {
    let mut pipeline = Pipeline::with_capacity(2);
    pipeline.cmd("SET").arg(key(api)).arg(schema.get()).arg("PX").arg(milliseconds(ttl));
    pipeline.cmd("SADD").arg(NAMES).arg(api);
    run(client, &pipeline).await.map(drop)
}

/// Lets a schema live for another `ttl`. Returns whether there is one.
pub(super) async fn renew(client: &Client, api: &str, ttl: Duration) -> Result<bool> {
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.cmd("PEXPIRE").arg(key(api)).arg(milliseconds(ttl));
    Ok(run(client, &pipeline).await?.first().and_then(value::int) == Some(1))
}

/// Returns the schemas of all APIs. Those that are not JSON are logged and left out.
pub(super) async fn load(client: &Client) -> Result<BTreeMap<String, Box<RawValue>>> {
    let mut names = Pipeline::with_capacity(1);
    names.cmd("SMEMBERS").arg(NAMES);
    let names = run(client, &names).await?.pop().and_then(value::items).unwrap_or_default();
    let names: Vec<&str> = names.iter().filter_map(value::text).collect();
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut schemas = BTreeMap::new();
    for (name, found) in names.iter().zip(read(client, &names).await?) {
        let Some(raw) = value::bytes(found) else { continue };
        match serde_json::from_slice::<Box<RawValue>>(&raw) {
            Ok(schema) => {
                schemas.insert((*name).to_owned(), schema);
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

/// Returns the value of each schema's key, in the order of the names. In a cluster the keys live on
/// different servers, so that each takes a command of its own.
async fn read(client: &Client, names: &[&str]) -> Result<Vec<Value>> {
    let mut get = Pipeline::with_capacity(1);
    if client.is_cluster() {
        for name in names {
            get.cmd("GET").arg(key(name));
        }
    } else {
        get.cmd("MGET");
        for name in names {
            get.arg(key(name));
        }
    }
    let mut found = run(client, &get).await?;
    if let (Some(Value::Array(_)), 1) = (found.first(), found.len()) {
        found = found.pop().and_then(value::items).unwrap_or_default();
    }
    if found.len() == names.len() {
        Ok(found)
    } else {
        Err(odd_answer("MGET", &Value::Array(found)))
    }
}

/// Sends commands, each of which must succeed.
async fn run(client: &Client, pipeline: &Pipeline) -> Result<Vec<Value>> {
    client
        .pipeline(pipeline, Sent::Harmless)
        .await?
        .into_iter()
        .map(|answer| {
            link::answer(answer).map_err(|error| from_redis(error, client.broker(), Sent::Harmless))
        })
        .collect()
}

fn milliseconds(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX >> 12).max(1)
}
