//! Receives the results of the whole process on one connection.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use lightbus_core::{Backoff, Closing, Name, PendingResults, Receives, Result, ReturnPath, json};
use redis::Value;
use tokio::task::JoinHandle;

use super::codec;
use crate::{
    client::Client,
    error::{Sent, from_redis, odd_answer},
    link::Link,
    reader::{BLOCK, Reader},
    value,
};

/// The most results to take at once.
const BATCH: usize = 512;
/// The backoff after an error.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// The task that receives. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Receiver {
    task: JoinHandle<()>,
    path: ReturnPath,
}

impl Receiver {
    /// Connects, and starts receiving.
    pub(super) async fn start(
        client: &Arc<Client>,
        closing: &Arc<Closing>,
        path: ReturnPath,
        key: Name,
        pending: PendingResults,
    ) -> Result<Self> {
        let reader = Reader::new(Arc::clone(client), Arc::clone(closing), &key);
        let (link, _) = reader.take().await?;
        reader.give_back(link);
        Ok(Self { task: tokio::spawn(receive(reader, key, pending)), path })
    }
}

impl Receives for Receiver {
    fn return_path(&self) -> ReturnPath {
        self.path.clone()
    }

    fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(reader: Reader, key: Name, pending: PendingResults) {
    let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
    let (mut unclaimed, mut malformed) = (0, 0_u64);
    while !reader.is_interrupted() {
        match pop(&reader, &key).await {
            Ok(results) => {
                if backoff.failures() > 0 {
                    tracing::info!("results are received again");
                    backoff.succeeded();
                }
                for raw in results {
                    match codec::decode_result(&raw) {
                        Ok(result) => {
                            pending.complete(result);
                        }
                        Err(error) => {
                            malformed += 1;
                            if let Some(id) = codec::salvage_result(&raw) {
                                pending.fail_unreadable(&id, &error);
                            }
                            tracing::warn!(
                                %error,
                                message = json::excerpt(&raw),
                                total = malformed,
                                "a result cannot be read"
                            );
                        }
                    }
                }
                if pending.unclaimed() > unclaimed {
                    unclaimed = pending.unclaimed();
                    tracing::debug!(
                        total = unclaimed,
                        "results of calls that no longer wait were dropped"
                    );
                }
            }
            Err(error) => {
                let wait = backoff.failed();
                if backoff.failures() == 1 {
                    tracing::warn!(%error, "receiving results was interrupted, retrying");
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Waits for results, and returns them oldest first; none after [`BLOCK`].
async fn pop(reader: &Reader, key: &str) -> Result<Vec<Bytes>> {
    let (link, _) = reader.take().await?;
    let results = pop_from(reader, &link, key).await?;
    reader.give_back(link);
    Ok(results)
}

async fn pop_from(reader: &Reader, link: &Link, key: &str) -> Result<Vec<Bytes>> {
    let many = |values: Value| {
        value::list_of_bytes(values).unwrap_or_default().into_iter().map(Bytes::from)
    };
    let name = if link.server.has_blmpop { "BLMPOP" } else { "BRPOP" };
    let mut pop = redis::cmd(name);
    if link.server.has_blmpop {
        pop.arg(BLOCK.as_secs_f64()).arg(1).arg(key).arg("RIGHT").arg("COUNT").arg(BATCH);
    } else {
        pop.arg(key).arg(BLOCK.as_secs_f64());
    }
    let answer = match reader.blocking(link, link.command(&pop)).await? {
        None | Some(Ok(Value::Nil)) => return Ok(Vec::new()),
        Some(Ok(answer)) => answer,
        Some(Err(error)) => {
            return Err(from_redis(error, reader.client().broker(), Sent::Harmless));
        }
    };
    let popped = match value::items(answer).map(<[Value; 2]>::try_from) {
        Some(Ok([_, popped])) => popped,
        _ => return Err(odd_answer(name, &Value::Nil)),
    };
    if link.server.has_blmpop {
        return Ok(many(popped).collect());
    }
    let mut results: Vec<Bytes> = value::bytes(popped).map(Bytes::from).into_iter().collect();
    let mut more = redis::cmd("RPOP");
    more.arg(key).arg(BATCH - 1);
    // An error must not lose the result that was popped already.
    if let Ok(more) = reader.request(link, link.command(&more)).await {
        results.extend(many(more));
    }
    Ok(results)
}
