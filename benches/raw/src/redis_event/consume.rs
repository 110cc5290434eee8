//! Consuming in a group: what has been read is acknowledged along with the next read.
//!
//! The stream is filled before; when all of it has been read, the group is set back to its start.

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value, cmd};

use super::{CONSUMER, GROUP, STREAM, xadd, xreadgroup};
use crate::suite::Site;
use crate::{Caller, Load, Outcome, Result, closed_loop, payload};

pub(crate) async fn measure(site: &Site, count: usize, load: Load) -> Result<Outcome> {
    let stream = site.key(STREAM);
    let entries = fill(site, &stream).await?;
    let mut connection = site.broker.connect_blocking().await?;
    create_group(&mut connection, &stream).await?;
    let consumer =
        Consumer { connection, stream, count, entries, read: 0, unacknowledged: Vec::new() };
    let outcome = closed_loop(vec![consumer], load, site.processes(None)).await;
    site.broker.delete(&[site.key(STREAM)]).await?;
    outcome
}

/// Fills the stream, and says how many entries it has.
async fn fill(site: &Site, stream: &str) -> Result<usize> {
    const MOST_ENTRIES: usize = 100_000;
    const MOST_BYTES: usize = 64 << 20;
    const AT_A_TIME: usize = 500;
    let entries = (MOST_BYTES / site.bytes.max(1)).min(MOST_ENTRIES);
    let add = xadd(stream, ":payload", payload::text(site.bytes).as_bytes());
    let mut connection = site.broker.connect_blocking().await?;
    for first in (0..entries).step_by(AT_A_TIME) {
        let mut pipeline = Pipeline::with_capacity(AT_A_TIME);
        for _ in first..entries.min(first + AT_A_TIME) {
            pipeline.add_command(add.clone());
        }
        let _: Value = pipeline.query_async(&mut connection).await?;
    }
    Ok(entries)
}

async fn create_group(connection: &mut MultiplexedConnection, stream: &str) -> Result<()> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("XGROUP").arg("CREATE").arg(stream).arg(GROUP).arg(0);
    pipeline.cmd("XGROUP").arg("CREATECONSUMER").arg(stream).arg(GROUP).arg(CONSUMER);
    let _: Value = pipeline.query_async(connection).await?;
    Ok(())
}

struct Consumer {
    connection: MultiplexedConnection,
    stream: String,
    count: usize,
    /// How many entries the stream has.
    entries: usize,
    /// How many of them have been read.
    read: usize,
    /// The ids of those to be acknowledged.
    unacknowledged: Vec<Vec<u8>>,
}

impl Caller for Consumer {
    async fn call(&mut self) -> Result<u64> {
        let answers: Value = self.commands().query_async(&mut self.connection).await?;
        let Value::Array(mut answers) = answers else {
            return Err("not the answers to a pipeline".into());
        };
        self.unacknowledged = ids(answers.pop())?;
        self.read += self.unacknowledged.len();
        Ok(self.unacknowledged.len() as u64)
    }
}

impl Consumer {
    /// `XACK` of what was read, and the next `XREADGROUP`, last.
    fn commands(&mut self) -> Pipeline {
        let mut pipeline = Pipeline::with_capacity(3);
        if !self.unacknowledged.is_empty() {
            let mut acknowledge = cmd("XACK");
            acknowledge.arg(&self.stream).arg(GROUP).arg(&self.unacknowledged);
            pipeline.add_command(acknowledge);
        }
        if self.read >= self.entries {
            self.read = 0;
            pipeline.cmd("XGROUP").arg("SETID").arg(&self.stream).arg(GROUP).arg(0);
        }
        pipeline.add_command(xreadgroup(&self.stream, self.count));
        pipeline
    }
}

/// The ids of the entries in an answer to `XREADGROUP` of one stream: nil, or the stream's name
/// and its entries, each an id and fields. Taken from the plain value: the client's typed reply
/// costs a fifth of the throughput.
fn ids(answer: Option<Value>) -> Result<Vec<Vec<u8>>> {
    entries(answer)?.into_iter().map(|entry| id_and_fields(entry).map(|(id, _)| id)).collect()
}

pub(super) fn entries(answer: Option<Value>) -> Result<Vec<Value>> {
    let Some(Value::Array(mut streams)) = answer else {
        return Ok(Vec::new());
    };
    let Some(Value::Array(mut name_and_entries)) = streams.pop() else {
        return Ok(Vec::new());
    };
    match name_and_entries.pop() {
        Some(Value::Array(entries)) => Ok(entries),
        other => Err(format!("not a stream's entries: {other:?}").into()),
    }
}

pub(super) fn id_and_fields(entry: Value) -> Result<(Vec<u8>, Vec<Value>)> {
    let Value::Array(entry) = entry else {
        return Err("not an entry".into());
    };
    match <[Value; 2]>::try_from(entry) {
        Ok([Value::BulkString(id), Value::Array(fields)]) => Ok((id, fields)),
        other => Err(format!("not an id and fields: {other:?}").into()),
    }
}
