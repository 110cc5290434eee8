//! One partition of a member: what was taken of it, and how far all of it is settled.

use std::collections::VecDeque;

/// The most ranges of settled records behind an unsettled one that are committed along with the
/// offset. Kafka accepts 4096 bytes.
const MOST_RANGES: usize = 100;
/// The prefix of the metadata of a committed offset.
const MARK: &str = "lightbus:";

/// What was taken of a partition, in order, and what of it is settled.
#[derive(Debug, Default)]
pub(crate) struct OffsetTracker {
    taken: VecDeque<(i64, bool)>,
    /// The offset after the last that was taken.
    next: i64,
    /// Settled by an earlier owner, behind a record that was not: ranges that exclude their end.
    before: Vec<(i64, i64)>,
    committed: Option<Committed>,
}

/// What a group has committed of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    /// The offset before which all records are settled.
    pub(crate) position: i64,
    /// The offset after the last record that was taken.
    pub(crate) taken: i64,
    /// The records between the two that are settled: ranges that exclude their end.
    pub(crate) done: Vec<(i64, i64)>,
}

impl OffsetTracker {
    /// Continues where the group left off. `known` says whether the group has committed this.
    pub(crate) fn new(from: Committed, known: bool) -> Self {
        let Committed { position, done, .. } = from.clone();
        Self {
            taken: VecDeque::new(),
            next: position,
            before: done,
            committed: known.then_some(from),
        }
    }

    /// Notes a record that was read. Returns whether to hand it over: not if it was settled before,
    /// or taken already.
    pub(crate) fn take(&mut self, offset: i64) -> bool {
        if offset < self.next {
            return false;
        }
        self.next = offset + 1;
        let done = self.before.iter().any(|(from, to)| (*from..*to).contains(&offset));
        if done && self.taken.is_empty() {
            return false;
        }
        self.taken.push_back((offset, done));
        !done
    }

    /// Marks a record as settled.
    pub(crate) fn settle(&mut self, offset: i64) {
        if let Ok(index) = self.taken.binary_search_by_key(&offset, |(offset, _)| *offset) {
            self.taken[index].1 = true;
        }
        while self.taken.front().is_some_and(|(_, done)| *done) {
            self.taken.pop_front();
        }
    }

    /// Returns how many records were handed over and are not settled.
    pub(crate) fn held(&self) -> usize {
        self.taken.iter().filter(|(_, done)| !done).count()
    }

    /// Returns the offset before which all records are settled.
    pub(crate) fn position(&self) -> i64 {
        self.taken.front().map_or(self.next, |(offset, _)| *offset)
    }

    /// Returns what to commit, unless it is committed already.
    pub(crate) fn uncommitted(&self) -> Option<Committed> {
        let now = self.now();
        (self.committed.as_ref() != Some(&now)).then_some(now)
    }

    /// Returns what to commit when the partition is given up, when nothing of it is held any more.
    pub(crate) fn final_position(&self) -> Option<Committed> {
        let mut now = self.now();
        now.taken = now.position;
        (self.committed.as_ref() != Some(&now)).then_some(now)
    }

    /// Notes what the group has committed.
    pub(crate) fn committed(&mut self, committed: Committed) {
        self.committed = Some(committed);
    }

    fn now(&self) -> Committed {
        let mut done: Vec<(i64, i64)> = Vec::new();
        for (offset, _) in self.taken.iter().filter(|(_, done)| *done) {
            let full = done.len() == MOST_RANGES;
            match done.last_mut() {
                Some((_, to)) if to == offset => *to += 1,
                _ if full => break,
                _ => done.push((*offset, offset + 1)),
            }
        }
        // Settled by an earlier owner, and not read again yet.
        let rest = self.before.iter().filter(|(_, to)| *to > self.next);
        done.extend(rest.map(|(from, to)| ((*from).max(self.next), *to)));
        done.truncate(MOST_RANGES);
        Committed { position: self.position(), taken: self.next, done }
    }
}

impl Committed {
    /// Writes the metadata of the offset: how many records were taken from there on, and which of them
    /// are settled.
    pub(crate) fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{MARK}{}", self.taken - self.position);
        for (from, to) in &self.done {
            // Writing to memory does not fail.
            let _ = write!(text, ",{}-{}", from - self.position, to - self.position);
        }
        text
    }

    /// Reads the metadata of an offset. Metadata of other clients is ignored.
    pub(crate) fn from_text(position: i64, text: &str) -> Self {
        let nothing = Self { position, taken: position, done: Vec::new() };
        let Some(rest) = text.strip_prefix(MARK) else { return nothing };
        let mut parts = rest.split(',');
        let number = |text: &str| {
            text.parse::<i64>().ok().filter(|n| (0..1 << 40).contains(n)).map(|n| position + n)
        };
        let Some(taken) = parts.next().and_then(number) else { return nothing };
        let done = parts
            .take(MOST_RANGES)
            .filter_map(|part| {
                let (from, to) = part.split_once('-')?;
                let (from, to) = (number(from)?, number(to)?);
                (from < to).then_some((from, to))
            })
            .collect();
        Self { position, taken, done }
    }

    /// Returns how many records were taken and are not settled.
    pub(crate) fn pending(&self) -> u64 {
        let within =
            |(from, to): &(i64, i64)| (to.min(&self.taken) - from.max(&self.position)).max(0);
        let done: i64 = self.done.iter().map(within).sum();
        u64::try_from(self.taken - self.position - done).unwrap_or(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn tracker() -> OffsetTracker {
        OffsetTracker::new(Committed { position: 10, taken: 10, done: Vec::new() }, true)
    }

    #[test]
    fn only_the_contiguous_prefix_counts() {
        let mut tracker = tracker();
        assert!((10..16).all(|offset| tracker.take(offset)));
        assert_eq!((tracker.position(), tracker.held()), (10, 6));
        for offset in [12, 13, 15] {
            tracker.settle(offset);
        }
        let due = tracker.uncommitted().unwrap();
        assert_eq!(due, Committed { position: 10, taken: 16, done: vec![(12, 14), (15, 16)] });
        assert_eq!(due.pending(), 3);
        tracker.settle(10);
        tracker.settle(11);
        assert_eq!((tracker.position(), tracker.held()), (14, 1));
        tracker.settle(14);
        tracker.settle(14);
        assert_eq!((tracker.position(), tracker.held()), (16, 0));
    }

    #[test]
    fn gaps_do_no_harm_and_nothing_is_taken_twice() {
        let mut tracker = tracker();
        assert!(tracker.take(10) && tracker.take(14));
        assert!(!tracker.take(14) && !tracker.take(11));
        tracker.settle(10);
        assert_eq!(tracker.position(), 14);
        tracker.settle(14);
        assert_eq!(tracker.position(), 15);
    }

    #[test]
    fn what_an_earlier_owner_settled_is_not_handed_out() {
        let mut first = tracker();
        assert!((10..15).all(|offset| first.take(offset)));
        first.settle(11);
        first.settle(13);
        let left = first.final_position().unwrap();
        assert_eq!((left.position, left.pending()), (10, 0));
        let read = Committed::from_text(left.position, &left.to_text());
        assert_eq!(read, left);

        let mut second = OffsetTracker::new(read, true);
        let again: Vec<_> = (10..16).filter(|offset| second.take(*offset)).collect();
        assert_eq!(again, [10, 12, 14, 15]);
        for offset in again {
            second.settle(offset);
        }
        assert_eq!(second.position(), 16);
        assert_eq!(
            second.uncommitted().unwrap(),
            Committed { position: 16, taken: 16, done: vec![] }
        );
    }

    #[test]
    fn what_is_committed_is_not_committed_again() {
        let mut tracker = tracker();
        assert!(tracker.uncommitted().is_none());
        tracker.take(10);
        let due = tracker.uncommitted().unwrap();
        tracker.committed(due);
        assert!(tracker.uncommitted().is_none());
        assert!(tracker.final_position().is_some(), "it is not held any more");
    }

    #[test]
    fn metadata_of_other_clients_is_ignored() {
        for text in
            ["", "x", "lightbus:", "lightbus:-1", "lightbus:x,1-2", "lightbus:99999999999999999999"]
        {
            let read = Committed::from_text(7, text);
            assert_eq!(read, Committed { position: 7, taken: 7, done: vec![] }, "{text}");
        }
        let read = Committed::from_text(7, "lightbus:5,3-1,1-2,x-y,,4");
        assert_eq!(read, Committed { position: 7, taken: 12, done: vec![(8, 9)] });
    }
}
