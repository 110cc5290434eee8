//! How often the records of a partition were delivered in vain.
//!
//! Kafka counts no deliveries, so a member commits the counts along with its position, in the metadata
//! of the offset ([`Committed`](super::Committed)). Two rules count:
//!
//! 1. What an owner may have begun when it vanished is counted up by the next one, to [`SUSPECT`] at most:
//!    it was lost together, and who is to blame is not known.
//! 2. From there on a record is a suspect. It is handled alone, and counted before it begins
//!    ([`Deliveries::add_one`]), so that only a record that ends its process counts on.
//!
//! The counts are ranges of offsets, as neighbours usually share their fate: bounded in the metadata, and
//! the highest are kept.
//!
//! Held by `an_event_that_aborts_its_process_is_dead_lettered_after_five_starts`
//! (tests/process/crashes.rs).

/// From this count on a record may have ended its processes.
pub(super) const SUSPECT: u32 = 2;
/// More is not counted: every limit has been reached.
const MOST: u32 = 1000;

/// Records that were delivered in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(super) from: i64,
    /// The offset after the last.
    pub(super) to: i64,
    pub(super) count: u32,
}

/// The counts of a partition: ranges that do not overlap, in the order of their offsets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deliveries(Vec<Range>);

impl Deliveries {
    /// Ignores ranges that are empty, or overlap an earlier one.
    pub(super) fn new(ranges: impl IntoIterator<Item = Range>) -> Self {
        let mut known = Self::default();
        for range in ranges {
            let overlaps = |other: &Range| other.from < range.to && range.from < other.to;
            if range.from < range.to && range.count > 0 && !known.0.iter().any(overlaps) {
                known.0.push(Range { count: range.count.min(MOST), ..range });
            }
        }
        known.normalized()
    }

    pub(super) fn ranges(&self) -> &[Range] {
        &self.0
    }

    pub(super) fn of(&self, offset: i64) -> u32 {
        let range = self.0.iter().find(|range| (range.from..range.to).contains(&offset));
        range.map_or(0, |range| range.count)
    }

    /// Counts records of which one may have ended its process. Suspects are not counted: that happens
    /// when they begin.
    pub(super) fn add_lost(&self, from: i64, to: i64) -> Self {
        self.changed(from, to, |count| if count < SUSPECT { count + 1 } else { count })
    }

    /// Counts a suspect that begins.
    pub(super) fn add_one(&self, offset: i64) -> Self {
        self.changed(offset, offset.saturating_add(1), |count| count.saturating_add(1).min(MOST))
    }

    /// Forgets what is before an offset.
    pub(super) fn starting_at(&self, offset: i64) -> Self {
        let left = self.0.iter().filter(|range| range.to > offset);
        Self(left.map(|range| Range { from: range.from.max(offset), ..*range }).collect())
    }

    /// Changes the count of each record of a range.
    fn changed(&self, from: i64, to: i64, change: impl Fn(u32) -> u32) -> Self {
        let mut ranges = Vec::with_capacity(self.0.len() + 3);
        // What is not counted yet begins here.
        let mut rest = from;
        for range in &self.0 {
            let within = (range.from.max(from), range.to.min(to));
            if within.0 >= within.1 {
                ranges.push(*range);
                continue;
            }
            ranges.push(Range { to: within.0, ..*range });
            ranges.push(Range { from: rest, to: within.0, count: change(0) });
            ranges.push(Range { from: within.0, to: within.1, count: change(range.count) });
            ranges.push(Range { from: within.1, ..*range });
            rest = within.1;
        }
        ranges.push(Range { from: rest, to, count: change(0) });
        ranges.retain(|range| range.from < range.to && range.count > 0);
        Self(ranges).normalized()
    }

    /// In order, neighbours of the same count as one.
    fn normalized(mut self) -> Self {
        self.0.sort_unstable_by_key(|range| range.from);
        self.0.dedup_by(|next, range| {
            let continues = range.to == next.from && range.count == next.count;
            if continues {
                range.to = next.to;
            }
            continues
        });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(deliveries: &Deliveries) -> Vec<(i64, i64, u32)> {
        deliveries.0.iter().map(|range| (range.from, range.to, range.count)).collect()
    }

    #[test]
    fn what_was_lost_counts_up_to_a_suspect_and_no_further() {
        let mut lost = Deliveries::default().add_lost(10, 20);
        assert_eq!(ranges(&lost), [(10, 20, 1)]);
        lost = lost.add_lost(15, 25);
        assert_eq!(ranges(&lost), [(10, 15, 1), (15, 20, 2), (20, 25, 1)]);
        lost = lost.add_lost(5, 30);
        assert_eq!(ranges(&lost), [(5, 10, 1), (10, 25, 2), (25, 30, 1)]);
        lost = lost.add_lost(5, 30);
        assert_eq!(ranges(&lost), [(5, 30, 2)]);
        assert_eq!(ranges(&lost.add_lost(0, 40)), [(0, 5, 1), (5, 30, 2), (30, 40, 1)]);
        assert_eq!(ranges(&lost.add_lost(7, 7)), [(5, 30, 2)]);
    }

    #[test]
    fn a_suspect_that_begins_counts_alone() {
        let lost = Deliveries::default().add_lost(10, 20).add_lost(10, 20);
        let begun = lost.add_one(12).add_one(12);
        assert_eq!(ranges(&begun), [(10, 12, 2), (12, 13, 4), (13, 20, 2)]);
        assert_eq!((begun.of(11), begun.of(12), begun.of(20)), (2, 4, 0));
        assert_eq!(ranges(&begun.add_lost(10, 13)), ranges(&begun));
        assert_eq!(ranges(&begun.starting_at(12)), [(12, 13, 4), (13, 20, 2)]);
        assert_eq!(ranges(&begun.starting_at(13)), [(13, 20, 2)]);
        assert_eq!(ranges(&begun.starting_at(15)), [(15, 20, 2)]);
        assert_eq!(ranges(&begun.starting_at(20)), []);
    }

    #[test]
    fn counts_from_elsewhere_are_made_sound() {
        let range = |(from, to, count)| Range { from, to, count };
        let read = Deliveries::new(
            [
                (20, 30, 3),
                (5, 5, 2),
                (9, 4, 2),
                (25, 40, 9),
                (10, 20, 3),
                (1, 2, 0),
                (2, 3, u32::MAX),
            ]
            .map(range),
        );
        assert_eq!(ranges(&read), [(2, 3, MOST), (10, 30, 3)]);
    }
}
