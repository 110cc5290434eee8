//! Receives the results of the whole process, in a thread.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use lightbus_core::{Error, ErrorKind, PendingResults, Receives, Result, ReturnPath, json};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};

use super::{ReplyPath, codec};
use crate::{
    client::{Client, blocking},
    endpoint::ms,
    error::{Sent, from_kafka, retry_transient},
    reader::ReaderContext,
};

/// How often the thread checks whether to end.
const LOOK: Duration = Duration::from_millis(200);

/// Receives results until it is dropped, and ends shortly after.
#[derive(Debug)]
pub(super) struct Receiver {
    return_path: ReturnPath,
    running: Arc<AtomicBool>,
}

impl Receiver {
    /// Connects, and starts receiving what is sent from now on.
    pub(super) async fn start(
        client: &Arc<Client>,
        group: &str,
        path: ReplyPath,
        fetch_wait: Duration,
        pending: PendingResults,
    ) -> Result<Self> {
        let return_path = path.to_return_path();
        let mut config = client.endpoint().consumer(group);
        config.set("fetch.wait.max.ms", ms(fetch_wait));
        let (timeout, broker) = (client.endpoint().timeout, client.broker().to_owned());
        let context = client.context();
        let consumer = blocking(move || {
            assign(&config, context, &path, timeout)
                .map_err(|error| from_kafka(error, &broker, Sent::Harmless))
        })
        .await??;
        let running = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&running);
        std::thread::Builder::new()
            .name("lightbus-kafka-results".into())
            .spawn(move || {
                // If it panics, the next call starts receiving again.
                let _ended = Ended(Arc::clone(&flag));
                receive(&consumer, &flag, &pending);
            })
            .map_err(|error| {
                Error::new(ErrorKind::Unavailable, "no thread could be started to receive results")
                    .because(error)
            })?;
        Ok(Self { return_path, running })
    }
}

impl Receives for Receiver {
    fn return_path(&self) -> ReturnPath {
        self.return_path.clone()
    }

    fn is_running(&self) -> bool {
        self.running.load(Ordering::Relaxed)
    }
}

/// Notes the end of the thread, however it ends.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
    }
}

/// Returns a consumer of one partition, from its end on.
fn assign(
    config: &rdkafka::ClientConfig,
    context: ReaderContext,
    path: &ReplyPath,
    timeout: Duration,
) -> std::result::Result<BaseConsumer<ReaderContext>, KafkaError> {
    let consumer = BaseConsumer::from_config_and_context(config, context)?;
    // The position, because "the end" would be looked up later than the first call is sent.
    let (_, end) = retry_transient(timeout, || {
        consumer.fetch_watermarks(&path.topic, path.partition, timeout)
    })?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&path.topic, path.partition, Offset::Offset(end))?;
    consumer.assign(&list)?;
    Ok(consumer)
}

fn receive(consumer: &BaseConsumer<ReaderContext>, running: &AtomicBool, pending: &PendingResults) {
    let mut malformed = 0_u64;
    while running.load(Ordering::Relaxed) {
        match consumer.poll(LOOK) {
            Some(Ok(record)) => match codec::read(&record) {
                Ok(result) => {
                    // One that is not expected may be another process': it is only counted.
                    pending.complete(result);
                }
                Err(error) => {
                    malformed += 1;
                    // One of another process that shares the partition is not expected here.
                    if let Some(id) = codec::answered_call(&record) {
                        pending.fail_unreadable(id, &error);
                    }
                    tracing::warn!(
                        %error,
                        message = json::excerpt(record.payload().unwrap_or_default()),
                        total = malformed,
                        "a result cannot be read"
                    );
                }
            },
            Some(Err(error)) => {
                tracing::debug!(%error, "the consumer reported an error and continues")
            }
            None => {}
        }
    }
}
