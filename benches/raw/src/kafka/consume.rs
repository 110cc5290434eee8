//! Consuming a backlog in a group, committing after each hundred and waiting for it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rdkafka::Message as _;
use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{KafkaSite, LIMIT, event_headers, fire::PARTITIONS};
use crate::cpu::Usage;
use crate::driver::{Latencies, Samples};
use crate::{Outcome, Processes, Result, payload};

const HUNDRED: usize = 100;

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
    let processes = Processes::of_client();
    let latencies = Latencies::new()?;
    let mut samples = Samples::new(latencies.clone());
    let first = records / 10;
    let mut began: Option<(Instant, Usage)> = None;
    let (mut read, mut hundred, mut stuck) = (0, Instant::now(), Instant::now() + LIMIT);
    while read < records {
        match consumer.poll(Duration::from_millis(100)) {
            Some(record) => std::hint::black_box(record?.payload().map(<[u8]>::len)),
            None if Instant::now() >= stuck => return Err("nothing comes".into()),
            None => continue,
        };
        read += 1;
        if read % HUNDRED == 0 || read == records {
            consumer.commit_consumer_state(CommitMode::Sync)?;
            if began.is_some() {
                samples.push(hundred.elapsed());
            }
            hundred = Instant::now();
            stuck = hundred + LIMIT;
        }
        if read == first {
            began = Some((Instant::now(), processes.usage()));
        }
    }
    let (ended, after) = (Instant::now(), processes.usage());
    drop(samples);
    let Some((start, before)) = began else { return Err("nothing was measured".into()) };
    let operations = (records - first) as u64;
    let duration = ended - start;
    Ok(Outcome {
        operations,
        duration,
        latencies: latencies.take()?,
        cpu: after.per_op_since(&before, operations as f64 / duration.as_secs_f64()),
        other_cores: after.other_cores_since(&before),
    })
}

/// Fills the topic, and says how many records it has.
async fn fill(site: &KafkaSite, topic: &str) -> Result<usize> {
    const MOST_RECORDS: usize = 100_000;
    const MOST_BYTES: usize = 64 << 20;
    const AT_A_TIME: usize = 500;
    let records = (MOST_BYTES / site.bytes.max(1)).min(MOST_RECORDS);
    let producer: FutureProducer = site.producer()?;
    let text = payload::text(site.bytes);
    for first in (0..records).step_by(AT_A_TIME) {
        let send = |_| {
            let record: FutureRecord<'_, str, str> = FutureRecord::to(topic);
            producer.send(record.payload(text.as_str()).headers(event_headers()), LIMIT)
        };
        for sent in join_all((first..records.min(first + AT_A_TIME)).map(send)).await {
            sent.map_err(|(error, _)| error)?;
        }
    }
    Ok(records)
}
