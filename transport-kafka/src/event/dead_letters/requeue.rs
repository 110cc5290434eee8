//! Requeues dead letters: sends their events to the original partitions, for their group alone.

use lightbus_core::{Error, ErrorKind, Name, Result};
use rdkafka::{
    Message,
    message::{Headers as _, OwnedHeaders, OwnedMessage},
};

use super::{
    Letters,
    codec::{OWN, parts, placed},
};
use crate::{
    event::codec::native_id,
    header::{self, Found},
    producer::Outgoing,
};

impl Letters {
    /// Sends the events of dead letters again, removes the dead letters, and returns how many there were.
    pub(in crate::event) async fn requeue(&self, ids: &[Name]) -> Result<usize> {
        let records = self.records().await?;
        let (found, left) = self.select(records, ids);
        if found.is_empty() {
            return Ok(0);
        }
        let again = found.iter().map(|record| self.again(record)).collect::<Result<Vec<_>>>()?;
        for record in &again {
            if self.client.existing(&record.topic).await?.is_none() {
                return Err(Error::new(
                    ErrorKind::Unknown,
                    "the topic of the event does not exist any more",
                )
                .with("topic", &record.topic)
                .hint("Fire the event again, or remove its dead letter"));
            }
        }
        self.client.send(again).await?;
        self.mark_removed(&found, left).await?;
        Ok(found.len())
    }

    /// Encodes the event as it was, for its original partition.
    fn again(&self, record: &OwnedMessage) -> Result<Outgoing> {
        let found = Found::read(record, OWN);
        let origin = found.get(header::ORIGIN).unwrap_or_default();
        let Some((topic, partition, _)) = parts(origin) else {
            return Err(Error::new(
                ErrorKind::Unknown,
                "the dead letter does not name its original partition",
            )
            .with("id", native_id(&self.topic, placed(record)))
            .hint("Fire the event again, or remove its dead letter"));
        };
        let mut headers = OwnedHeaders::new();
        for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
            let replaced = [header::REASON, header::ATTEMPTS, header::ORIGIN, header::ONLY_GROUP];
            if !replaced.contains(&header.key) {
                headers = headers.insert(header);
            }
        }
        headers = header::add(headers, header::ONLY_GROUP, &self.full_group);
        headers = header::add(headers, header::ORIGIN, origin);
        Ok(Outgoing {
            topic: topic.into(),
            partition: Some(partition),
            key: record.key().and_then(|key| std::str::from_utf8(key).ok()).map(Name::from),
            payload: Some(record.payload().unwrap_or_default().to_vec()),
            headers: Some(headers),
        })
    }
}
