//! The stream of schemas, and what this process has read of it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, SystemTime},
};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use lightbus_core::{Error, Result, json};
use serde_json::value::RawValue;

use crate::{
    client::Client,
    header,
    publisher::{Message, PublishChannel, Publisher},
    set_up::set_up,
    stream::{Entry, Reader, publish_mark},
    topology::{QueueSpec, short},
};

/// What this process has read of the stream.
pub(super) struct SchemaStore {
    stream: String,
    /// The offset to read next.
    next: u64,
    schemas: HashMap<String, Known>,
}

struct Known {
    schema: Arc<RawValue>,
    /// When it expires, by its writer's clock.
    until: SystemTime,
}

impl SchemaStore {
    pub(super) fn new(stream: String) -> Self {
        Self { stream, next: 0, schemas: HashMap::new() }
    }

    /// Reads what was stored since the last time.
    pub(super) async fn catch_up(&mut self, client: &Client, publisher: &Publisher) -> Result<()> {
        let read = self.read_on(client, publisher).await;
        if read.is_err() {
            // The stream may have been deleted and declared again.
            self.next = 0;
        }
        read
    }

    async fn read_on(&mut self, client: &Client, publisher: &Publisher) -> Result<()> {
        let stream = &*self.stream;
        let mark =
            |out: Arc<PublishChannel>| async move { publish_mark(publisher, &out, stream).await };
        let name = on_stream(publisher, stream, mark).await?;
        let mut reader = Reader::open(client, &self.stream, self.next).await?;
        loop {
            let entry = reader.next().await?;
            self.next = entry.offset + 1;
            match entry.mark() {
                Some(mark) if mark == name => break,
                Some(_) => {}
                None => self.take(entry),
            }
        }
        let now = SystemTime::now();
        self.schemas.retain(|_, known| known.until > now);
        Ok(())
    }

    fn take(&mut self, entry: Entry) {
        let none = FieldTable::default();
        let headers = entry.raw.properties.headers().as_ref().unwrap_or(&none);
        let Some(api) = header::string(headers, header::API).map(str::to_owned) else { return };
        let time = header::int(headers, header::TIME).and_then(header::time_of);
        let ttl = header::int(headers, header::TTL).and_then(|ttl| u64::try_from(ttl).ok());
        let (Some(time), Some(ttl)) = (time, ttl) else { return };
        let Some(until) = time.checked_add(Duration::from_millis(ttl)) else { return };
        if until <= SystemTime::now() {
            self.schemas.remove(&api);
            return;
        }
        match serde_json::from_slice::<Box<RawValue>>(&entry.raw.body) {
            Ok(schema) => {
                self.schemas.insert(api, Known { schema: schema.into(), until });
            }
            Err(error) => tracing::warn!(
                %error,
                api,
                schema = json::excerpt(&entry.raw.body),
                "a schema on the bus is not JSON"
            ),
        }
    }

    /// Returns the schema of an API, unless it has expired.
    pub(super) fn get(&self, api: &str) -> Option<Arc<RawValue>> {
        self.schemas.get(api).map(|known| Arc::clone(&known.schema))
    }

    /// Returns all schemas that have not expired.
    pub(super) fn all(&self) -> BTreeMap<String, Box<RawValue>> {
        let known = self.schemas.iter();
        known.map(|(api, known)| (api.clone(), (*known.schema).to_owned())).collect()
    }
}

/// Declares the stream, once per channel, and does something with it that may be repeated. A stream that was
/// declared just now may not be there yet.
async fn on_stream<T, Working>(
    publisher: &Publisher,
    stream: &str,
    work: impl Fn(Arc<PublishChannel>) -> Working,
) -> Result<T>
where
    Working: Future<Output = Result<T>>,
{
    let work = &work;
    let declared = |out: Arc<PublishChannel>| async move {
        if !out.knows(stream) {
            let channel = out.link.channel().await?;
            QueueSpec::schemas(stream).declare(&out.link, &channel).await?;
            out.learn(stream);
        }
        work(out).await
    };
    set_up(publisher.deadline(), || publisher.channel(), declared).await
}

/// Appends a schema to the stream.
pub(super) async fn store(
    publisher: &Publisher,
    stream: &str,
    api: &str,
    schema: &RawValue,
    ttl: Duration,
) -> Result<()> {
    let mut headers = FieldTable::default();
    headers.insert(header::API.into(), header::text(api));
    let now = header::epoch_ms(SystemTime::now());
    headers.insert(header::TIME.into(), AMQPValue::LongLongInt(now));
    headers.insert(header::TTL.into(), AMQPValue::LongLongInt(header::clamp_ms(ttl)));
    let message = Message {
        exchange: "".into(),
        key: short("the name of a stream", stream)?,
        mandatory: true,
        properties: BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_headers(headers),
        body: bytes::Bytes::copy_from_slice(schema.get().as_bytes()),
    };
    let message = &message;
    on_stream(publisher, stream, |out| async move {
        let published = publisher.publish(&out, message.clone(), publisher.deadline()).await;
        match published.map_err(safe)? {
            None => Ok(()),
            Some(_) => {
                out.forget(stream);
                Err(Error::new(lightbus_core::ErrorKind::Unavailable, "the stream was deleted")
                    .with("stream", stream))
            }
        }
    })
    .await
}

/// Storing a schema twice does no harm.
fn safe(error: Error) -> Error {
    if error.is_temporary() { error.retry(lightbus_core::Retry::Safe) } else { error }
}
