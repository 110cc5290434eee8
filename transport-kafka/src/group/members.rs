//! The partitions that the members of each group have in this transport.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use lightbus_core::Name;

use super::Assignments;

/// A partition of a topic.
pub(crate) type TopicPartition = (Name, i32);

/// The members of each group, as long as they live.
#[derive(Default)]
pub(crate) struct Members(Mutex<HashMap<String, Vec<Weak<Assignments>>>>);

impl Members {
    pub(crate) fn add(&self, group: String, assignments: &Arc<Assignments>) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let members = groups.entry(group).or_default();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(assignments));
    }

    /// Returns the partitions that members of this group have here now; `None` if there is no member.
    pub(crate) fn partitions_of(&self, group: &str) -> Option<Vec<TopicPartition>> {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let members: Vec<_> = groups.get(group)?.iter().filter_map(Weak::upgrade).collect();
        let owned = members.iter().flat_map(|member| member.owned()).collect();
        (!members.is_empty()).then_some(owned)
    }
}
