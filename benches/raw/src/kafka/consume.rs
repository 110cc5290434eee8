//! Consuming a backlog in a group, committing after each hundred and waiting for it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::Message as _;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{KafkaSite, LIMIT, event_headers, fire::PARTITIONS};
use crate::backlog::{self, Backlog, SENT_AT_ONCE};
use crate::{Outcome, Result, payload};

pub(crate) async fn measure(site: &KafkaSite) -> Result<Outcome> {
    let topic = site.topic("events");
    site.make(&topic, PARTITIONS).await?;
    let records = fill(site, &topic).await?;
    let (owned, name) = (site.clone(), topic.clone());
    let outcome = tokio::task::spawn_blocking(move || consume(&owned, &name, records)).await?;
    site.delete(&[&topic]).await?;
    outcome
}

fn consume(site: &KafkaSite, topic: &str, records: usize) -> Result<Outcome> {
    let consumer = site.consumer()?;
    consumer.subscribe(&[topic])?;
    let mut backlog = Backlog::of(records)?;
    let mut stuck = Instant::now() + LIMIT;
    while !backlog.is_read() {
        match consumer.poll(Duration::from_millis(100)) {
            Some(record) => std::hint::black_box(record?.payload().map(<[u8]>::len)),
            None if Instant::now() >= stuck => return Err("nothing comes".into()),
            None => continue,
        };
        if backlog.note() {
            consumer.commit_consumer_state(CommitMode::Sync)?;
            backlog.acknowledged();
            stuck = Instant::now() + LIMIT;
        }
    }
    backlog.outcome()
}

/// Fills the topic, and says how many records it has.
async fn fill(site: &KafkaSite, topic: &str) -> Result<usize> {
    let records = backlog::size(site.bytes);
    let producer: FutureProducer = site.producer()?;
    let text = payload::text(site.bytes);
    for first in (0..records).step_by(SENT_AT_ONCE) {
        let send = |_| {
            let record: FutureRecord<'_, str, str> = FutureRecord::to(topic);
            producer.send(record.payload(text.as_str()).headers(event_headers()), LIMIT)
        };
        for sent in join_all((first..records.min(first + SENT_AT_ONCE)).map(send)).await {
            sent.map_err(|(error, _)| error)?;
        }
    }
    Ok(records)
}
