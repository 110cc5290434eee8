//! Which deliveries of a channel are settled, so that one acknowledgement can cover many.

use std::collections::VecDeque;

/// The deliveries of one channel, numbered from 1 without gaps.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// The tag of the first delivery in `settled`: all before it are settled.
    first: u64,
    settled: VecDeque<bool>,
}

/// How to acknowledge deliveries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Acks {
    /// All up to this one.
    pub(crate) up_to: Option<u64>,
    /// These too, one by one.
    pub(crate) single: Vec<u64>,
}

impl Delivered {
    pub(crate) fn new() -> Self {
        Self { first: 1, settled: VecDeque::new() }
    }

    /// Settles a delivery. Returns `false` if it was settled before.
    pub(crate) fn settle(&mut self, tag: u64) -> bool {
        let Some(index) = tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok())
        else {
            return false;
        };
        if index >= self.settled.len() {
            self.settled.resize(index + 1, false);
        }
        !std::mem::replace(&mut self.settled[index], true)
    }

    /// Whether a delivery was settled.
    pub(crate) fn is_settled(&self, tag: u64) -> bool {
        match tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok()) {
            Some(index) => self.settled.get(index).copied().unwrap_or(false),
            None => true,
        }
    }

    /// Returns how to acknowledge deliveries that have just been settled.
    pub(crate) fn acks(&mut self, mut tags: Vec<u64>) -> Acks {
        while self.settled.front() == Some(&true) {
            self.settled.pop_front();
            self.first += 1;
        }
        tags.sort_unstable();
        // The last of the settled prefix must be one of these: naming one that is acknowledged already is
        // an error.
        let whole = tags.partition_point(|tag| *tag < self.first);
        let single = tags.split_off(whole);
        Acks { up_to: tags.pop(), single }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acks(delivered: &mut Delivered, tags: &[u64]) -> Acks {
        let new: Vec<u64> = tags.iter().copied().filter(|tag| delivered.settle(*tag)).collect();
        delivered.acks(new)
    }

    #[test]
    fn a_whole_prefix_takes_one_acknowledgement() {
        let mut delivered = Delivered::new();
        assert_eq!(acks(&mut delivered, &[2, 1, 3]), Acks { up_to: Some(3), single: vec![] });
        assert_eq!(acks(&mut delivered, &[5, 6]), Acks { up_to: None, single: vec![5, 6] });
        // 5 and 6 are acknowledged already: naming them again would be an error.
        assert_eq!(acks(&mut delivered, &[4, 8]), Acks { up_to: Some(4), single: vec![8] });
        assert_eq!(acks(&mut delivered, &[7]), Acks { up_to: Some(7), single: vec![] });
        assert_eq!(acks(&mut delivered, &[9]), Acks { up_to: Some(9), single: vec![] });
    }

    #[test]
    fn settling_twice_acknowledges_once() {
        let mut delivered = Delivered::new();
        assert_eq!(acks(&mut delivered, &[1, 1]), Acks { up_to: Some(1), single: vec![] });
        assert_eq!(acks(&mut delivered, &[1]), Acks::default());
    }
}
