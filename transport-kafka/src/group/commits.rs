//! Telling the group what is settled, one commit after the other.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use lightbus_core::Name;
use rdkafka::{
    Offset, TopicPartitionList,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
};
use tokio::sync::oneshot;

use super::{
    Assignments,
    committer::{Committer, refused},
    offset_tracker::Committed,
};

/// Who wants to know that something is committed.
pub(super) type CommitWaiter = oneshot::Sender<KafkaResult<()>>;

/// A commit on its way. There is never more than one, so that positions reach the group in their order.
struct UnderWay {
    news: Vec<(u64, Committed)>,
    list: Vec<(Name, i32, i64)>,
    asking: Vec<CommitWaiter>,
    until: Instant,
}

/// The commits of a member.
pub(super) struct Commits {
    assignments: Arc<Assignments>,
    committer: Committer,
    under_way: Option<UnderWay>,
    limit: Duration,
}

impl Commits {
    pub(super) fn new(
        assignments: Arc<Assignments>,
        committer: Committer,
        limit: Duration,
    ) -> Self {
        Self { assignments, committer, under_way: None, limit }
    }

    pub(super) fn committer(&self) -> &Committer {
        &self.committer
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins what was asked for, if nothing is under way; also without having been asked, if
    /// `anyway`.
    pub(super) fn poll_commits(&mut self, anyway: bool) {
        if self.under_way.as_ref().is_some_and(|under_way| Instant::now() >= under_way.until) {
            self.end(Err(KafkaError::ConsumerCommit(Code::OperationTimedOut)));
        }
        if self.under_way.is_some() {
            return;
        }
        let asking = self.assignments.asking();
        if !anyway && asking.is_empty() {
            return;
        }
        let news: Vec<_> = {
            let parts = self.assignments.parts();
            parts
                .iter()
                .filter_map(|(id, partition)| Some((*id, partition.tracker.uncommitted()?)))
                .collect()
        };
        self.begin(news, asking);
    }

    /// Begins to tell how far partitions came that are given up. Nothing may be under way.
    pub(super) fn commit_before_revoke(&mut self, assignments: &[u64], asking: CommitWaiter) {
        let news: Vec<_> = {
            let parts = self.assignments.parts();
            let of = |id: &u64| Some((*id, parts.get(id)?.tracker.final_position()?));
            assignments.iter().filter_map(of).collect()
        };
        self.begin(news, vec![asking]);
    }

    fn begin(&mut self, news: Vec<(u64, Committed)>, asking: Vec<CommitWaiter>) {
        let until = Instant::now() + self.limit;
        let mut request = TopicPartitionList::with_capacity(news.len());
        let mut list = Vec::with_capacity(news.len());
        {
            let parts = self.assignments.parts();
            for (id, what) in &news {
                if let Some(partition) = parts.get(id) {
                    let mut element = request.add_partition(&partition.topic, partition.partition);
                    // Never a negative number, so never refused.
                    let _ = element.set_offset(Offset::Offset(what.position));
                    element.set_metadata(what.to_text());
                    list.push((Name::clone(&partition.topic), partition.partition, what.position));
                }
            }
        }
        let nothing = list.is_empty();
        self.under_way = Some(UnderWay { news, list, asking, until });
        if nothing {
            self.end(Ok(()));
        } else if let Err(error) = self.committer.begin(request) {
            self.end(Err(error));
        }
    }

    /// Lets go of the consumer, within this time if it can be done.
    pub(super) fn close(self, limit: Duration) {
        self.committer.end(limit);
    }

    /// Takes an answer.
    pub(super) fn answered(&mut self, answer: KafkaResult<()>, list: &TopicPartitionList) {
        let Some(under_way) = &self.under_way else { return };
        // One that nobody waits for any more may still be answered.
        if !under_way.list.iter().all(|(topic, partition, position)| {
            list.find_partition(topic, *partition)
                .is_some_and(|element| element.offset() == Offset::Offset(*position))
        }) {
            return;
        }
        self.end(answer.and_then(|()| refused(list)));
    }

    fn end(&mut self, answer: KafkaResult<()>) {
        let Some(UnderWay { news, asking, .. }) = self.under_way.take() else { return };
        match &answer {
            Ok(()) => {
                let mut parts = self.assignments.parts();
                for (id, what) in news {
                    if let Some(partition) = parts.get_mut(&id) {
                        partition.tracker.committed(what);
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "offsets could not be committed yet"),
        }
        for asking in asking {
            // Nobody waits any more: then nobody wants to know.
            let _ = asking.send(answer.clone());
        }
    }
}
