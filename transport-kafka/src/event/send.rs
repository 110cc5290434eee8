//! Fires events: many records in flight.

use lightbus_core::{EventMessage, Name, Result};

use super::{KafkaEventTransport, codec};

impl KafkaEventTransport {
    /// Sends events, and returns their native ids.
    pub(super) async fn fire(&self, events: &[EventMessage]) -> Result<Vec<Name>> {
        let client = self.handle.client()?;
        let mut topics: Vec<Name> = Vec::with_capacity(events.len());
        for (index, event) in events.iter().enumerate() {
            let previous = index.checked_sub(1).map(|before| &events[before]);
            let same = previous
                .is_some_and(|before| before.api == event.api && before.event == event.event);
            let topic = match (same, topics.last()) {
                (true, Some(topic)) => Name::clone(topic),
                _ => {
                    let topic = self.topic(&event.api, Some(&event.event))?;
                    client.topic(&topic, &self.spec).await?;
                    topic
                }
            };
            topics.push(topic);
        }
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let records = events
            .iter()
            .zip(&topics)
            .map(|(event, topic)| codec::outgoing(topic, event))
            .collect();
        let placed = client.send(records).await?;
        Ok(topics
            .iter()
            .zip(placed)
            .map(|(topic, placed)| codec::native_id(topic, placed))
            .collect())
    }
}
