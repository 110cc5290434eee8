//! One partition of a member: what was taken of it, and how far all of it is settled.
//!
//! What is committed says three things: how far all is settled, what is settled behind that, and how far
//! this owner may have begun. The last is what the next owner goes by if this one vanishes: records
//! before that offset that are not settled may have ended its process, and count
//! ([`Deliveries`]). So no record is handed over that is not covered by a commit of this owner
//! ([`OffsetTracker::is_covered`]). An owner that gives its partition up leaves none of that: what it had
//! begun ended no process.

use std::collections::VecDeque;

use super::deliveries::{Deliveries, Range};

/// The most ranges of settled records behind an unsettled one that are committed along with the
/// offset.
const MOST_RANGES: usize = 100;
/// The most ranges of records that were delivered in vain.
const MOST_COUNTS: usize = 60;
/// Kafka accepts 4096 bytes, unless its administrator wants less.
const MOST_BYTES: usize = 4000;
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
    /// What earlier owners delivered in vain.
    deliveries: Deliveries,
    /// Suspects that began here and are not settled.
    begun: Vec<i64>,
    /// Where this owner began to read.
    start: i64,
    /// The offset before which records may be handed over.
    covered: i64,
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
    /// The offset before which the owner may have begun records: at least `taken`.
    pub(crate) reserved: i64,
    /// What was delivered in vain.
    pub(crate) deliveries: Deliveries,
}

impl OffsetTracker {
    /// Continues where the group left off. `known` says whether the group has committed this.
    ///
    /// What the last owner may have begun counts as delivered in vain; `end` is the end of the partition,
    /// where that is known: what came later was never delivered.
    pub(crate) fn new(from: Committed, known: bool, end: Option<i64>) -> Self {
        let position = from.position;
        let lost_until = from.reserved.min(end.unwrap_or(i64::MAX));
        Self {
            taken: VecDeque::new(),
            next: position,
            before: from.done.clone(),
            deliveries: from.deliveries.add_lost(position, lost_until),
            begun: Vec::new(),
            start: position,
            covered: position,
            // What an owner left that vanished is to be replaced even if nothing else changes.
            committed: (known && !from.is_left_behind()).then_some(from),
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
            self.begun.retain(|begun| *begun != offset);
        }
        while self.taken.front().is_some_and(|(_, done)| *done) {
            self.taken.pop_front();
        }
    }

    /// Returns how often a record was delivered in vain.
    pub(crate) fn deliveries(&self, offset: i64) -> u32 {
        self.deliveries.of(offset)
    }

    /// Notes that a suspect begins: the next commit counts it. Returns whether it is to be settled still.
    pub(crate) fn begin(&mut self, offset: i64) -> bool {
        let held = self.taken.binary_search_by_key(&offset, |(offset, _)| *offset);
        let held = held.is_ok_and(|index| !self.taken[index].1);
        if held && !self.begun.contains(&offset) {
            self.begun.push(offset);
        }
        held
    }

    /// Whether this owner has committed that it may begin this record.
    pub(crate) fn is_covered(&self, offset: i64) -> bool {
        offset < self.covered
    }

    /// Returns the offset before which all records are settled.
    pub(crate) fn position(&self) -> i64 {
        self.taken.front().map_or(self.next, |(offset, _)| *offset)
    }

    /// Returns what to commit, unless it is committed already. `ahead` is how many records more than
    /// were taken are covered by it.
    pub(crate) fn uncommitted(&self, ahead: i64) -> Option<Committed> {
        let mut now = self.now();
        if self.next > self.start {
            now.reserved = self.next.saturating_add(ahead);
        }
        now.deliveries = self.begun.iter().fold(now.deliveries, |all, one| all.add_one(*one));
        (self.committed.as_ref() != Some(&now)).then_some(now)
    }

    /// Returns what to commit when the partition is given up, when nothing of it is held any more. What
    /// began has not ended this process.
    pub(crate) fn final_position(&self) -> Option<Committed> {
        let mut now = self.now();
        (now.taken, now.reserved) = (now.position, now.position);
        (self.committed.as_ref() != Some(&now)).then_some(now)
    }

    /// Notes what the group has committed.
    pub(crate) fn committed(&mut self, committed: Committed) {
        self.covered = self.covered.max(committed.reserved);
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
        let position = self.position();
        let deliveries = self.deliveries.starting_at(position);
        Committed { position, taken: self.next, done, reserved: self.next, deliveries }
    }
}

impl Committed {
    /// Nothing is known but where to begin.
    pub(crate) fn at(position: i64) -> Self {
        let (done, deliveries) = (Vec::new(), Deliveries::default());
        Self { position, taken: position, done, reserved: position, deliveries }
    }

    /// Whether the owner had not given the partition up: it may have begun some records.
    pub(crate) fn is_left_behind(&self) -> bool {
        self.reserved > self.position
    }

    /// Writes the metadata of the offset: how many records were taken from there on, which of them
    /// are settled, up to where some may have begun, and which were delivered in vain.
    pub(crate) fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{MARK}{}", self.taken - self.position);
        // Writing to memory does not fail.
        for (from, to) in &self.done {
            let _ = write!(text, ",{}-{}", from - self.position, to - self.position);
        }
        // Without a `-`, for versions that know no such parts.
        if self.reserved > self.taken {
            let _ = write!(text, ",r{}", self.reserved - self.position);
        }
        let mut counts = self.deliveries.ranges().to_vec();
        // Those that are nearest to the limit must not be lost.
        counts.sort_by_key(|range| std::cmp::Reverse(range.count));
        for Range { from, to, count } in counts.into_iter().take(MOST_COUNTS) {
            let part = format!(",c{}+{}x{count}", from - self.position, to - from);
            if text.len() + part.len() <= MOST_BYTES {
                text.push_str(&part);
            }
        }
        text
    }

    /// Reads the metadata of an offset. Metadata of other clients is ignored.
    pub(crate) fn from_text(position: i64, text: &str) -> Self {
        let mut read = Self::at(position);
        let Some(rest) = text.strip_prefix(MARK) else { return read };
        let mut parts = rest.split(',');
        let number = |text: &str| text.parse::<i64>().ok().filter(|n| (0..1 << 40).contains(n));
        let offset = |text: &str| number(text).map(|n| position.saturating_add(n));
        let Some(taken) = parts.next().and_then(offset) else { return read };
        (read.taken, read.reserved) = (taken, taken);
        let mut counts = Vec::new();
        for part in parts.take(MOST_RANGES + MOST_COUNTS + 1) {
            if let Some(reserved) = part.strip_prefix('r').and_then(offset) {
                read.reserved = read.reserved.max(reserved);
            } else if let Some((from, to)) = part.split_once('-') {
                let range = offset(from).zip(offset(to)).filter(|(from, to)| from < to);
                if read.done.len() < MOST_RANGES {
                    read.done.extend(range);
                }
            } else if let Some(count) = part.strip_prefix('c') {
                counts.extend(Self::count(count, offset, number));
            }
        }
        read.deliveries = Deliveries::new(counts);
        read
    }

    /// Reads `{from}+{length}x{count}`.
    fn count(
        text: &str,
        offset: impl Fn(&str) -> Option<i64>,
        number: impl Fn(&str) -> Option<i64>,
    ) -> Option<Range> {
        let (from, rest) = text.split_once('+')?;
        let (length, count) = rest.split_once('x')?;
        let from = offset(from)?;
        let to = from.saturating_add(number(length)?);
        Some(Range { from, to, count: count.parse().ok()? })
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
        OffsetTracker::new(Committed::at(10), true, None)
    }

    #[test]
    fn only_the_contiguous_prefix_counts() {
        let mut tracker = tracker();
        assert!((10..16).all(|offset| tracker.take(offset)));
        assert_eq!(tracker.position(), 10);
        for offset in [12, 13, 15] {
            tracker.settle(offset);
        }
        let due = tracker.uncommitted(0).unwrap();
        assert_eq!((due.position, due.taken), (10, 16));
        assert_eq!(due.done, [(12, 14), (15, 16)]);
        assert_eq!(due.pending(), 3);
        tracker.settle(10);
        tracker.settle(11);
        assert_eq!(tracker.position(), 14);
        tracker.settle(14);
        tracker.settle(14);
        assert_eq!(tracker.position(), 16);
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

        let mut second = OffsetTracker::new(read, true, None);
        let again: Vec<_> = (10..16).filter(|offset| second.take(*offset)).collect();
        assert_eq!(again, [10, 12, 14, 15]);
        for offset in again {
            second.settle(offset);
        }
        assert_eq!(second.position(), 16);
        assert_eq!(second.uncommitted(0), Some(Committed::at(16)));
    }

    #[test]
    fn what_is_committed_is_not_committed_again() {
        let mut tracker = tracker();
        assert!(tracker.uncommitted(0).is_none());
        tracker.take(10);
        let due = tracker.uncommitted(0).unwrap();
        tracker.committed(due);
        assert!(tracker.uncommitted(0).is_none());
        assert!(tracker.final_position().is_some(), "it is not held any more");
    }

    /// What the next owner finds if this one vanishes now.
    fn left(tracker: &mut OffsetTracker, ahead: i64) -> Committed {
        let due = tracker.uncommitted(ahead).unwrap();
        tracker.committed(due.clone());
        Committed::from_text(due.position, &due.to_text())
    }

    #[test]
    fn nothing_is_covered_before_it_is_committed() {
        let mut tracker = tracker();
        assert!(tracker.take(10) && tracker.take(11));
        assert!(!tracker.is_covered(10));
        left(&mut tracker, 0);
        assert!(tracker.is_covered(11) && !tracker.is_covered(12));
        left(&mut tracker, 5);
        assert!(tracker.is_covered(16) && !tracker.is_covered(17));

        let mut idle = OffsetTracker::new(Committed::at(10), true, None);
        assert!(idle.uncommitted(5).is_none(), "it has taken nothing");
        idle.take(10);
        assert!(!idle.is_covered(10));
    }

    #[test]
    fn what_an_owner_may_have_begun_when_it_vanished_counts() {
        let mut first = tracker();
        assert!((10..14).all(|offset| first.take(offset)));
        first.settle(10);
        let left = left(&mut first, 3);
        assert_eq!((left.position, left.taken, left.reserved), (11, 14, 17));
        let second = OffsetTracker::new(left.clone(), true, Some(16));
        let counts = [10, 11, 15, 16].map(|offset| second.deliveries(offset));
        assert_eq!(counts, [0, 1, 1, 0], "16 had not been sent yet");
        let due = second.uncommitted(0).unwrap();
        assert_eq!((due.taken, due.reserved), (11, 11), "it has begun nothing");
        assert!(second.final_position().is_some(), "the counts are to be kept");
        // It vanishes as well, before it has committed anything.
        let third = OffsetTracker::new(left, true, None);
        assert_eq!([11, 16].map(|offset| third.deliveries(offset)), [1, 1]);
    }

    #[test]
    fn an_event_that_ends_its_process_counts_up_alone() {
        let mut committed = Committed::at(10);
        let mut seen = Vec::new();
        for _ in 0..5 {
            let mut owner = OffsetTracker::new(committed, true, None);
            assert!((10..13).all(|offset| owner.take(offset)));
            left(&mut owner, 0);
            let counts = [10, 11, 12].map(|offset| owner.deliveries(offset));
            seen.push(counts);
            if counts[1] >= 2 {
                assert!(owner.begin(11) && owner.begin(11), "counted once");
            }
            committed = owner.uncommitted(0).map_or_else(
                || owner.committed.clone().unwrap(),
                |due| Committed::from_text(due.position, &due.to_text()),
            );
        }
        assert_eq!(seen, [[0, 0, 0], [1, 1, 1], [2, 2, 2], [2, 3, 2], [2, 4, 2]]);
        let last = OffsetTracker::new(committed, true, None);
        assert_eq!(last.deliveries(11), 5);
    }

    #[test]
    fn an_owner_that_gives_up_has_ended_nothing() {
        let lost = Deliveries::default().add_lost(10, 12).add_lost(10, 12);
        let mut owner = OffsetTracker::new(
            Committed { deliveries: lost.clone(), ..Committed::at(10) },
            true,
            None,
        );
        assert!(owner.take(10) && owner.take(11));
        assert!(owner.begin(10));
        assert_eq!(owner.uncommitted(0).unwrap().deliveries.of(10), 3);
        let due = owner.uncommitted(0).unwrap();
        owner.committed(due);
        let given_up = owner.final_position().unwrap();
        assert_eq!(given_up.deliveries, lost);
        assert!(!given_up.is_left_behind());
        owner.settle(10);
        assert!(!owner.begin(10), "it is settled");
        assert_eq!(owner.uncommitted(0).unwrap().deliveries.of(11), 2);
    }

    #[test]
    fn metadata_fits_and_keeps_the_highest_counts() {
        let far = 1 << 39;
        let range = |n: i64| Range {
            from: far + n * 3,
            to: far + n * 3 + 1,
            count: if n == 150 { 4 } else { 1 },
        };
        let full = Committed {
            taken: far + 1000,
            done: (0..100).map(|n| (far + n * 3, far + n * 3 + 2)).collect(),
            reserved: far + 2000,
            deliveries: Deliveries::new((0..200).map(range)),
            ..Committed::at(0)
        };
        let text = full.to_text();
        assert!(text.len() <= 4096, "{}", text.len());
        let read = Committed::from_text(0, &text);
        assert_eq!((read.done.len(), read.reserved), (100, full.reserved));
        assert_eq!(read.deliveries.of(far + 450), 4);
        // As versions read it that know nothing but ranges.
        assert!(text.split(',').skip(101).all(|part| !part.contains('-')));
    }

    #[test]
    fn metadata_of_other_clients_is_ignored() {
        for text in
            ["", "x", "lightbus:", "lightbus:-1", "lightbus:x,1-2", "lightbus:99999999999999999999"]
        {
            assert_eq!(Committed::from_text(7, text), Committed::at(7), "{text}");
        }
        let text = "lightbus:5,3-1,1-2,x-y,,4,r,rx,r-1,c,c1,c1+1,c1+x2,c1+2x-1,cx+1x1,c4+0x3";
        let read = Committed::from_text(7, text);
        let done = vec![(8, 9)];
        assert_eq!(read, Committed { taken: 12, done, reserved: 12, ..Committed::at(7) });
    }
}
