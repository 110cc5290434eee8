//! Pseudo-random decisions by seed, and the log of faults.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use lightbus_core::Name;

use super::{ALL, At, Fault};

/// How many faults are logged.
const NOTED: usize = 10_000;
/// How many messages are remembered by id: more than can be in flight.
const REMEMBERED: usize = 65_536;

/// Returns a number in `0.0..1.0` that depends on the arguments alone.
pub(super) fn roll(words: [u64; 4], texts: [&str; 3]) -> f64 {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    for text in texts {
        // A byte that does not occur in UTF-8 separates the texts.
        for byte in text.bytes().chain([0xff]) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    for word in words {
        state = mix(state ^ word);
    }
    (state >> 11) as f64 / (1_u64 << 53) as f64
}

/// The mixing step of SplitMix64.
fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The log of faults.
#[derive(Default)]
pub(super) struct Happened(Mutex<Log>);

#[derive(Default)]
struct Log {
    lines: Vec<String>,
    counts: [u64; ALL.len()],
}

impl Happened {
    pub(super) fn note(&self, fault: Fault, at: &At<'_>) {
        let mut log = lock(&self.0);
        log.counts[fault as usize] += 1;
        if log.lines.len() < NOTED {
            log.lines.push(format!("{fault:?}: {at}"));
        }
    }

    pub(super) fn count(&self, fault: Fault) -> u64 {
        lock(&self.0).counts[fault as usize]
    }

    pub(super) fn total(&self) -> u64 {
        lock(&self.0).counts.iter().sum()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        lock(&self.0).lines.clone()
    }
}

/// Numbers messages by name. Ids are random; a message's ordinal among messages of the same name is not.
#[derive(Default)]
pub(super) struct Numbers(Mutex<Given>);

#[derive(Default)]
struct Given {
    next: HashMap<String, u64>,
    by_id: HashMap<Name, (String, u64)>,
    oldest: VecDeque<Name>,
}

impl Numbers {
    /// Returns the number of a message. A message not seen before gets the next number of its name.
    pub(super) fn of(&self, id: &Name, path: &str) -> u64 {
        let mut given = lock(&self.0);
        if let Some((_, number)) = given.by_id.get(id) {
            return *number;
        }
        let next = given.next.entry(path.to_owned()).or_default();
        *next += 1;
        let number = *next;
        if given.oldest.len() >= REMEMBERED
            && let Some(oldest) = given.oldest.pop_front()
        {
            given.by_id.remove(&oldest);
        }
        given.oldest.push_back(Name::clone(id));
        given.by_id.insert(Name::clone(id), (path.to_owned(), number));
        number
    }

    /// Returns the name and the number of a message that was seen before. Others share one name.
    pub(super) fn known(&self, id: &Name) -> (String, u64) {
        let known = lock(&self.0).by_id.get(id).cloned();
        known.unwrap_or_else(|| ("of elsewhere".to_owned(), self.of(id, "of elsewhere")))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roll_depends_on_each_part() {
        let base = roll([1, 2, 3, 4], ["a", "b", "c"]);
        assert!((0.0..1.0).contains(&base));
        assert_eq!(base, roll([1, 2, 3, 4], ["a", "b", "c"]));
        for other in [
            roll([0, 2, 3, 4], ["a", "b", "c"]),
            roll([1, 2, 3, 5], ["a", "b", "c"]),
            roll([1, 2, 3, 4], ["ab", "", "c"]),
        ] {
            assert!((base - other).abs() > f64::EPSILON);
        }
    }

    #[test]
    fn a_message_keeps_its_number() {
        let numbers = Numbers::default();
        assert_eq!(numbers.of(&"x".into(), "auth.seen"), 1);
        assert_eq!(numbers.of(&"y".into(), "auth.seen"), 2);
        assert_eq!(numbers.of(&"z".into(), "auth.other"), 1);
        assert_eq!(numbers.of(&"x".into(), "auth.seen"), 1);
        assert_eq!(numbers.known(&"y".into()), ("auth.seen".to_owned(), 2));
        assert_eq!(numbers.known(&"?".into()).0, "of elsewhere");
    }
}
