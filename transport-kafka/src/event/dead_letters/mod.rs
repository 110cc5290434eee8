//! Dead letters: a topic for each group, which is listed, removed from and requeued from.
//!
//! A record cannot be deleted from the middle of a topic. So a later record of the same topic lists the
//! dead letters that were removed, and when all of them are, the topic is emptied.

mod codec;
mod requeue;

use std::{collections::HashSet, sync::Arc};

use async_trait::async_trait;
use lightbus_core::{
    Error, ErrorKind, Name, Result,
    transport::{DeadLetter, DeadLetters, GroupSpec},
};
use rdkafka::{
    Message,
    message::{OwnedHeaders, OwnedMessage},
};

use super::KafkaEventTransport;
use crate::{
    client::{Client, blocking},
    header::{self, Found},
    producer::Outgoing,
};
use codec::{OWN, parts, read};
pub(super) use codec::{Raw, outgoing};

/// The dead letters of a group.
pub(super) struct Letters {
    pub(super) client: Arc<Client>,
    pub(super) reader_group: String,
    pub(super) topic: Name,
    /// Without the prefix.
    pub(super) group: Name,
    /// On Kafka.
    pub(super) full_group: String,
}

impl Letters {
    /// Returns the dead letters after this one, oldest first, at most `limit`.
    pub(super) async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        let after = match after {
            Some(id) => self.offset(id).ok_or_else(|| self.unknown(id))?,
            None => -1,
        };
        if limit == 0 {
            return Ok(Vec::new());
        }
        let records = self.records().await?;
        let later = records.iter().filter(|record| record.offset() > after);
        Ok(later.take(limit).map(|record| read(record, group)).collect())
    }

    /// Removes dead letters, and returns how many there were.
    pub(super) async fn remove(&self, ids: &[Name]) -> Result<usize> {
        let records = self.records().await?;
        let (found, left) = self.select(records, ids);
        self.mark_removed(&found, left).await?;
        Ok(found.len())
    }

    /// Returns the records with these ids, and how many others there are.
    fn select(&self, records: Vec<OwnedMessage>, ids: &[Name]) -> (Vec<OwnedMessage>, usize) {
        let wanted: HashSet<i64> = ids.iter().filter_map(|id| self.offset(id)).collect();
        let (found, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| wanted.contains(&record.offset()));
        (found, others.len())
    }

    /// Marks these as removed, and empties the topic if none are left.
    async fn mark_removed(&self, removed: &[OwnedMessage], left: usize) -> Result<()> {
        if removed.is_empty() {
            return Ok(());
        }
        let offsets: Vec<i64> = removed.iter().map(OwnedMessage::offset).collect();
        let payload = serde_json::to_vec(&offsets).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "the offsets could not be encoded").because(error)
        })?;
        let record = Outgoing {
            topic: Name::clone(&self.topic),
            partition: Some(0),
            key: None,
            payload: Some(payload),
            headers: Some(header::add(OwnedHeaders::new(), header::REMOVED, "1")),
        };
        let placed = self.client.send(vec![record]).await?;
        if left == 0
            && let (Some(placed), Some(last)) = (placed.first(), offsets.last())
            // Nothing was dead-lettered meanwhile.
            && placed.offset == last + 1
            && let Err(error) = self.client.empty(&self.topic, placed.offset + 1).await
        {
            tracing::debug!(%error, topic = &*self.topic, "the records of removed dead letters could not be deleted");
        }
        Ok(())
    }

    /// Returns all that are not removed, oldest first.
    async fn records(&self) -> Result<Vec<OwnedMessage>> {
        if self.client.existing(&self.topic).await?.is_none() {
            return Ok(Vec::new());
        }
        let (client, reader_group, topic) =
            (Arc::clone(&self.client), self.reader_group.clone(), Name::clone(&self.topic));
        blocking(move || {
            let reader = client.reader(&reader_group)?;
            let (low, high) = reader.bounds(&topic, 0)?;
            let (mut records, mut removed) = (Vec::new(), HashSet::new());
            reader.read(&topic, 0, low, high, |record| {
                if Found::read(record, OWN).get(header::REMOVED).is_some() {
                    let payload = record.payload().unwrap_or_default();
                    // A list that cannot be read removes nothing.
                    removed.extend(serde_json::from_slice::<Vec<i64>>(payload).unwrap_or_default());
                } else {
                    records.push(record.detach());
                }
            })?;
            records.retain(|record| !removed.contains(&record.offset()));
            Ok(records)
        })
        .await?
    }

    fn offset(&self, id: &str) -> Option<i64> {
        let (topic, partition, offset) = parts(id)?;
        (topic == &*self.topic && partition == 0).then_some(offset)
    }

    fn unknown(&self, id: &str) -> Error {
        Error::new(
            ErrorKind::Invalid,
            format!("`{id}` is not the id of a dead letter of this group"),
        )
        .with("group", &self.group)
    }
}

#[async_trait]
impl DeadLetters for KafkaEventTransport {
    async fn list(
        &self,
        group: &GroupSpec,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        self.letters(group)?.list(group, after, limit).await
    }

    async fn remove(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        self.letters(group)?.remove(ids).await
    }

    async fn requeue(&self, group: &GroupSpec, ids: &[Name]) -> Result<usize> {
        self.letters(group)?.requeue(ids).await
    }
}

impl KafkaEventTransport {
    fn letters(&self, group: &GroupSpec) -> Result<Letters> {
        Ok(Letters {
            client: Arc::clone(self.handle.client()?),
            reader_group: self.reader_group(),
            topic: self.dead_letter_topic(group),
            group: self.group(group).into(),
            full_group: self.full_group(group),
        })
    }
}
