//! The partitions that the listeners of this transport have.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::lag::Partition;
use crate::group::Assignments;

/// The members of each group, as long as they live.
#[derive(Default)]
pub(super) struct Members(Mutex<HashMap<String, Vec<Weak<Assignments>>>>);

impl Members {
    pub(super) fn add(&self, group: String, assignments: &Arc<Assignments>) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let members = groups.entry(group).or_default();
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(assignments));
    }

    /// Returns the partitions that members of this group have here now.
    pub(super) fn partitions_of(&self, group: &str) -> Vec<Partition> {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let members = groups.get(group).into_iter().flatten().filter_map(Weak::upgrade);
        members.flat_map(|member| member.owned()).collect()
    }
}
