//! Sending records, each confirmed by all copies, those in flight sharing a producer.

use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{KafkaSite, LIMIT, event_headers};
use crate::{Caller, Load, Outcome, Processes, Result, closed_loop_in_one_task, payload};

/// As many as the transport makes.
pub(super) const PARTITIONS: i32 = 8;

struct Firer {
    producer: FutureProducer,
    topic: String,
    payload: Vec<u8>,
}

impl Caller for Firer {
    async fn call(&mut self) -> Result<u64> {
        let record: FutureRecord<'_, str, [u8]> =
            FutureRecord::to(&self.topic).payload(self.payload.as_slice()).headers(event_headers());
        self.producer.send(record, LIMIT).await.map_err(|(error, _)| error)?;
        Ok(1)
    }
}

pub(crate) async fn measure(site: &KafkaSite, callers: usize, load: Load) -> Result<Outcome> {
    let topic = site.topic("events");
    site.make(&topic, PARTITIONS).await?;
    let producer: FutureProducer = site.producer()?;
    let firer = || Firer {
        producer: producer.clone(),
        topic: topic.clone(),
        payload: payload::text(site.bytes).into_bytes(),
    };
    let firers = std::iter::repeat_with(firer).take(callers).collect();
    let outcome = closed_loop_in_one_task(firers, load, Processes::of_client()).await;
    site.delete(&[&topic]).await?;
    outcome
}
