//! One partition in a member's hands: what was taken of it, and how far all of it is settled.

use std::collections::VecDeque;

/// The most ranges of settled records behind an unsettled one that are remembered with the group's
/// offset. Kafka takes 4096 bytes.
const MOST_RANGES: usize = 100;
/// What the text beside a committed offset begins with.
const MARK: &str = "lightbus:";

/// What was taken of a partition, in order, and what of it is settled.
#[derive(Debug, Default)]
pub(crate) struct OffsetTracker {
    taken: VecDeque<(i64, bool)>,
    /// The offset after the last that was taken.
    next: i64,
    /// Settled by an earlier owner, behind something that was not: ranges, the end not included.
    before: Vec<(i64, i64)>,
    committed: Option<Committed>,
}

/// What a group remembers of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    /// All before this is settled.
    pub(crate) position: i64,
    /// The offset after the last that was taken, and what of it is settled.
    pub(crate) taken: i64,
    pub(crate) done: Vec<(i64, i64)>,
}

impl OffsetTracker {
    /// Goes on where the group was. `known` says whether the group remembers it already.
    pub(crate) fn new(from: Committed, known: bool) -> Self {
        let Committed { position, done, .. } = from.clone();
        Self {
            taken: VecDeque::new(),
            next: position,
            before: done,
            committed: known.then_some(from),
        }
    }

    /// Notes a record that was read. Gives whether it is to be handed out: not if it was settled
    /// before, or was taken already.
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

    /// Notes that a record is settled.
    pub(crate) fn settle(&mut self, offset: i64) {
        if let Ok(index) = self.taken.binary_search_by_key(&offset, |(offset, _)| *offset) {
            self.taken[index].1 = true;
        }
        while self.taken.front().is_some_and(|(_, done)| *done) {
            self.taken.pop_front();
        }
    }

    /// How many are in somebody's hands.
    pub(crate) fn held(&self) -> usize {
        self.taken.iter().filter(|(_, done)| !done).count()
    }

    /// All before this is settled.
    pub(crate) fn position(&self) -> i64 {
        self.taken.front().map_or(self.next, |(offset, _)| *offset)
    }

    /// What the group is to remember, if it is not what it remembers.
    pub(crate) fn uncommitted(&self) -> Option<Committed> {
        let now = self.now();
        (self.committed.as_ref() != Some(&now)).then_some(now)
    }

    /// What the group is to remember when the partition is given up: nobody holds anything then.
    pub(crate) fn final_position(&self) -> Option<Committed> {
        let mut now = self.now();
        now.taken = now.position;
        (self.committed.as_ref() != Some(&now)).then_some(now)
    }

    /// Notes what the group remembers.
    pub(crate) fn committed(&mut self, what: Committed) {
        self.committed = Some(what);
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
        // What an earlier owner settled, and has not been read again yet.
        let rest = self.before.iter().filter(|(_, to)| *to > self.next);
        done.extend(rest.map(|(from, to)| ((*from).max(self.next), *to)));
        done.truncate(MOST_RANGES);
        Committed { position: self.position(), taken: self.next, done }
    }
}

impl Committed {
    /// The text that goes with the offset: how many were taken from there on, and which are settled.
    pub(crate) fn to_text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!("{MARK}{}", self.taken - self.position);
        for (from, to) in &self.done {
            // Writing to memory does not fail.
            let _ = write!(text, ",{}-{}", from - self.position, to - self.position);
        }
        text
    }

    /// Reads the text that went with an offset. What does not come from here says nothing.
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

    /// How many were taken and are not settled.
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

    fn track() -> OffsetTracker {
        OffsetTracker::new(Committed { position: 10, taken: 10, done: Vec::new() }, true)
    }

    #[test]
    fn only_the_contiguous_prefix_counts() {
        let mut track = track();
        assert!((10..16).all(|offset| track.take(offset)));
        assert_eq!((track.position(), track.held()), (10, 6));
        for offset in [12, 13, 15] {
            track.settle(offset);
        }
        let news = track.uncommitted().unwrap();
        assert_eq!(news, Committed { position: 10, taken: 16, done: vec![(12, 14), (15, 16)] });
        assert_eq!(news.pending(), 3);
        track.settle(10);
        track.settle(11);
        assert_eq!((track.position(), track.held()), (14, 1));
        track.settle(14);
        track.settle(14);
        assert_eq!((track.position(), track.held()), (16, 0));
    }

    #[test]
    fn gaps_do_no_harm_and_nothing_is_taken_twice() {
        let mut track = track();
        assert!(track.take(10) && track.take(14));
        assert!(!track.take(14) && !track.take(11));
        track.settle(10);
        assert_eq!(track.position(), 14);
        track.settle(14);
        assert_eq!(track.position(), 15);
    }

    #[test]
    fn what_an_earlier_owner_settled_is_not_handed_out() {
        let mut first = track();
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
    fn what_is_remembered_is_no_news() {
        let mut track = track();
        assert!(track.uncommitted().is_none());
        track.take(10);
        let news = track.uncommitted().unwrap();
        track.committed(news);
        assert!(track.uncommitted().is_none());
        assert!(track.final_position().is_some(), "nobody holds it any more");
    }

    #[test]
    fn texts_of_others_say_nothing() {
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
