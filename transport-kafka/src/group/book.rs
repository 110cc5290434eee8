//! Which partitions a member has, what of them is settled, and telling the group.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use lightbus_core::{Name, Result};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
};

use super::{
    context::Membership,
    track::{Committed, Track},
};
use crate::error::{Sent, from_code, from_kafka};

/// A record in a member's hands: the assignment of its partition, and its offset. Of an assignment
/// that is over it means nothing: then another has the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) assignment: u64,
    pub(crate) offset: i64,
}

/// A member's partitions.
pub(crate) struct Book {
    consumer: Mutex<Option<Arc<BaseConsumer<Membership>>>>,
    parts: Mutex<HashMap<u64, Part>>,
    /// Held by the one who commits, so that positions reach the group in their order, and none of a
    /// partition after it was given up.
    committing: Mutex<()>,
    broker: String,
}

pub(crate) struct Part {
    pub(crate) topic: Name,
    pub(crate) partition: i32,
    pub(crate) track: Track,
}

impl Book {
    pub(crate) fn new(consumer: Arc<BaseConsumer<Membership>>, broker: &str) -> Self {
        Self {
            consumer: Mutex::new(Some(consumer)),
            parts: Mutex::default(),
            committing: Mutex::new(()),
            broker: broker.to_owned(),
        }
    }

    pub(crate) fn parts(&self) -> MutexGuard<'_, HashMap<u64, Part>> {
        // What is panicked at while it is locked leaves it whole.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that records are settled.
    pub(crate) fn settle(&self, places: impl IntoIterator<Item = Place>) {
        let mut parts = self.parts();
        for place in places {
            if let Some(part) = parts.get_mut(&place.assignment) {
                part.track.settle(place.offset);
            }
        }
    }

    /// Whether anybody holds a record of these partitions.
    pub(crate) fn is_held(&self, assignments: &[u64]) -> bool {
        let parts = self.parts();
        assignments.iter().filter_map(|id| parts.get(id)).any(|part| part.track.held() > 0)
    }

    /// Tells the group what is settled, and waits for its answer. Blocks.
    pub(crate) fn commit(&self) -> Result<()> {
        let _turn = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let news: Vec<_> = {
            let parts = self.parts();
            parts.iter().filter_map(|(id, part)| Some((*id, part.track.news()?))).collect()
        };
        self.tell(news, CommitMode::Sync)
    }

    /// Tells the group what is taken, without waiting: it may be told again.
    pub(crate) fn mention(&self) {
        let Ok(_turn) = self.committing.try_lock() else { return };
        let news: Vec<_> = {
            let parts = self.parts();
            parts.iter().filter_map(|(id, part)| Some((*id, part.track.news()?))).collect()
        };
        if let Err(error) = self.tell(news, CommitMode::Async) {
            tracing::debug!(%error, "offsets could not be committed yet");
        }
    }

    /// Gives partitions up: tells the group how far they are settled, if it still listens to us, and
    /// forgets them. Blocks.
    pub(crate) fn give_up(&self, assignments: &[u64], lost: bool) {
        let _turn = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        let news: Vec<_> = {
            let parts = self.parts();
            let of = |id: &u64| Some((*id, parts.get(id)?.track.farewell()?));
            assignments.iter().filter_map(of).collect()
        };
        if !lost && let Err(error) = self.tell(news, CommitMode::Sync) {
            tracing::warn!(%error, "offsets could not be committed before their partitions went; some events come again");
        }
        let mut parts = self.parts();
        for id in assignments {
            parts.remove(id);
        }
    }

    /// Lets go of the consumer, which ends when nobody uses it any more.
    pub(crate) fn close(&self) {
        drop(self.consumer.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn tell(&self, news: Vec<(u64, Committed)>, mode: CommitMode) -> Result<()> {
        if news.is_empty() {
            return Ok(());
        }
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(consumer) = consumer else { return Ok(()) };
        let mut list = TopicPartitionList::with_capacity(news.len());
        {
            let parts = self.parts();
            for (id, what) in &news {
                if let Some(part) = parts.get(id) {
                    let mut element = list.add_partition(&part.topic, part.partition);
                    // Never a negative number, so never refused.
                    let _ = element.set_offset(Offset::Offset(what.position));
                    element.set_metadata(what.to_text());
                }
            }
        }
        match consumer.commit(&list, mode) {
            Ok(()) => {}
            Err(error) => return Err(from_kafka(error, &self.broker, Sent::Harmless)),
        }
        for element in list.elements() {
            if let Err(KafkaError::OffsetFetch(code)) = element.error() {
                return Err(from_code(code, &self.broker, Sent::Harmless));
            }
        }
        let mut parts = self.parts();
        for (id, what) in news {
            if let Some(part) = parts.get_mut(&id) {
                part.track.committed(what);
            }
        }
        Ok(())
    }
}
