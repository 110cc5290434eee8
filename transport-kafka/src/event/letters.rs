//! Dead letters as they are looked at: read, removed, given back.
//!
//! A record cannot be taken out of the middle of a topic. So those that are removed are told by a later
//! record of the same topic, and when all are, the topic is emptied.

use std::{collections::HashSet, sync::Arc};

use lightbus_core::{Error, ErrorKind, Name, Result, transport::DeadLetter};
use rdkafka::{
    Message,
    message::{Headers as _, OwnedHeaders, OwnedMessage},
};

use super::record;
use crate::{
    client::{Client, blocking},
    header::{self, Found},
    produce::{Outgoing, Placed},
    range::time_of,
};

const OWN: [&str; 4] = [header::REASON, header::ATTEMPTS, header::ORIGIN, header::REMOVED];

/// The dead letters of a group.
pub(super) struct Letters {
    pub(super) client: Arc<Client>,
    pub(super) reader_group: String,
    pub(super) topic: Name,
    /// As people know it.
    pub(super) group: Name,
    /// As Kafka knows it.
    pub(super) full_group: String,
}

impl Letters {
    /// What the group set aside, oldest first, at most `limit` of those after this one.
    pub(super) async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<DeadLetter>> {
        let after = match after {
            Some(id) => self.offset(id).ok_or_else(|| self.unknown(id))?,
            None => -1,
        };
        if limit == 0 {
            return Ok(Vec::new());
        }
        let group = Name::clone(&self.group);
        let records = self.records().await?;
        let later = records.iter().filter(|record| record.offset() > after);
        Ok(later.take(limit).map(|record| read(record, &group)).collect())
    }

    /// Removes those of these ids that are there, and gives how many they were.
    pub(super) async fn remove(&self, ids: &[Name]) -> Result<usize> {
        let records = self.records().await?;
        let (found, left) = self.pick(records, ids);
        self.tell(&found, left).await?;
        Ok(found.len())
    }

    /// Sends those of these ids again, for the group alone, and then removes them.
    pub(super) async fn give_back(&self, ids: &[Name]) -> Result<usize> {
        let records = self.records().await?;
        let (found, left) = self.pick(records, ids);
        if found.is_empty() {
            return Ok(0);
        }
        let again = found.iter().map(|record| self.again(record)).collect::<Result<Vec<_>>>()?;
        for record in &again {
            if self.client.existing(&record.topic).await?.is_none() {
                return Err(Error::new(ErrorKind::Unknown, "the topic of the event is gone")
                    .with("topic", &record.topic)
                    .hint("Fire the event again, or remove its dead letter"));
            }
        }
        self.client.send(again).await?;
        self.tell(&found, left).await?;
        Ok(found.len())
    }

    /// Those with these ids, and how many others there are.
    fn pick(&self, records: Vec<OwnedMessage>, ids: &[Name]) -> (Vec<OwnedMessage>, usize) {
        let wanted: HashSet<i64> = ids.iter().filter_map(|id| self.offset(id)).collect();
        let (found, others): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| wanted.contains(&record.offset()));
        (found, others.len())
    }

    /// Tells that these are removed.
    async fn tell(&self, removed: &[OwnedMessage], left: usize) -> Result<()> {
        if removed.is_empty() {
            return Ok(());
        }
        let offsets: Vec<i64> = removed.iter().map(OwnedMessage::offset).collect();
        let payload = serde_json::to_vec(&offsets).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "numbers are no JSON").because(error)
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
            // Nothing was set aside meanwhile.
            && placed.offset == last + 1
            && let Err(error) = self.client.empty(&self.topic, placed.offset + 1).await
        {
            tracing::debug!(%error, topic = &*self.topic, "records of dead letters that are gone stay");
        }
        Ok(())
    }

    /// All that are not removed, oldest first.
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
                    // What cannot be read removes nothing.
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
        Error::new(ErrorKind::Invalid, format!("`{id}` names no dead letter of this group"))
            .with("group", &self.group)
    }

    /// The event as it was, in the partition where it was.
    fn again(&self, record: &OwnedMessage) -> Result<Outgoing> {
        let found = Found::read(record, OWN);
        let origin = found.get(header::ORIGIN).unwrap_or_default();
        let Some((topic, partition, _)) = parts(origin) else {
            return Err(Error::new(
                ErrorKind::Unknown,
                "the dead letter does not say where it was",
            )
            .with("id", record::native_id(&self.topic, place(record)))
            .hint("Fire the event again, or remove its dead letter"));
        };
        let mut headers = OwnedHeaders::new();
        for header in record.headers().into_iter().flat_map(|headers| headers.iter()) {
            let told_anew = [header::REASON, header::ATTEMPTS, header::ORIGIN, header::ONLY_GROUP];
            if !told_anew.contains(&header.key) {
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

fn place<M: Message>(record: &M) -> Placed {
    Placed { partition: record.partition(), offset: record.offset() }
}

/// Topic, partition and offset.
fn parts(id: &str) -> Option<(&str, i32, i64)> {
    let mut parts = id.rsplitn(3, '/');
    let (offset, partition) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some((parts.next()?, partition, offset))
}

fn read<M: Message>(record: &M, group: &Name) -> DeadLetter {
    let found = Found::read(record, OWN);
    let mut event = record::unreadable(record);
    event.headers = found.others.clone();
    event.native_id = found.get(header::ORIGIN).map(Name::from);
    let attempts = found.get(header::ATTEMPTS).and_then(|text| text.parse().ok()).unwrap_or(0);
    event.attempt = attempts;
    DeadLetter {
        id: record::native_id(record.topic(), place(record)),
        event,
        group: Name::clone(group),
        reason: found.get(header::REASON).unwrap_or_default().to_owned(),
        attempts,
        time: time_of(record),
    }
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn places_are_read() {
        assert_eq!(parts("shop.events/3/17"), Some(("shop.events", 3, 17)));
        assert!(["", "shop.events", "shop/1", "shop/x/1"].iter().all(|id| parts(id).is_none()));
    }
}
