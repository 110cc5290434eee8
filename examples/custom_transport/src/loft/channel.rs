//! A log of messages, and the groups that read it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{sync::Notify, time::Instant};

use crate::protocol::{Delivered, Fate, From};

/// How many messages a channel keeps.
const KEPT: usize = 100_000;

#[derive(Default)]
pub(super) struct Channel {
    /// By number, the oldest first.
    log: VecDeque<Entry>,
    groups: HashMap<String, Group>,
    bell: Arc<Notify>,
    last_receipt: u64,
}

struct Entry {
    number: u64,
    text: String,
    /// Milliseconds since 1970.
    time: u64,
    stored: Instant,
    expires: Option<Instant>,
    keep: bool,
}

#[derive(Default)]
struct Group {
    /// The number of the next message that was not taken yet.
    next: u64,
    /// Given back, by number, each with how often it was taken.
    returned: BTreeMap<u64, u32>,
    /// By receipt.
    taken: HashMap<u64, Taken>,
}

struct Taken {
    number: u64,
    attempt: u32,
    until: Instant,
}

impl Entry {
    fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    fn delivered(&self, receipt: u64, attempt: u32) -> Delivered {
        Delivered {
            receipt,
            number: self.number,
            text: self.text.clone(),
            time: self.time,
            age: u64::try_from(self.stored.elapsed().as_millis()).unwrap_or(u64::MAX),
            attempt,
        }
    }
}

impl Channel {
    pub(super) fn push(&mut self, number: u64, text: String, ttl: Option<u64>, keep: bool) {
        let now = Instant::now();
        while self.log.front().is_some_and(|entry| entry.has_expired(now)) || self.log.len() >= KEPT
        {
            self.log.pop_front();
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let expires = ttl.map(|ttl| now + Duration::from_millis(ttl));
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        self.log.push_back(Entry { number, text, time, stored: now, expires, keep });
        self.bell.notify_waiters();
    }

    /// Adds a group, unless it is there. `last` is the number of the last message of the loft.
    pub(super) fn join(&mut self, group: String, start: From, last: u64) {
        let next = match start {
            From::New => last + 1,
            From::Earliest => 0,
            From::Since(since) => {
                let first = self.log.partition_point(|entry| entry.time < since);
                self.log.get(first).map_or(last + 1, |entry| entry.number)
            }
        };
        self.groups.entry(group).or_insert(Group { next, ..Group::default() });
    }

    /// Takes messages for a group, and says when the next lease ends.
    pub(super) fn take(
        &mut self,
        group: &str,
        max: usize,
        lease: Duration,
    ) -> (Vec<Delivered>, Option<Instant>) {
        let Some(group) = self.groups.get_mut(group) else { return Default::default() };
        let now = Instant::now();
        let mut found = Vec::new();
        group.end_leases(now);
        while found.len() < max {
            let (number, before) = match group.returned.pop_first() {
                Some(returned) => returned,
                None => {
                    let next = self.log.partition_point(|entry| entry.number < group.next);
                    let Some(entry) = self.log.get(next) else { break };
                    group.next = entry.number + 1;
                    (entry.number, 0)
                }
            };
            let Ok(index) = self.log.binary_search_by_key(&number, |entry| entry.number) else {
                // Too old to be kept.
                continue;
            };
            if self.log[index].has_expired(now) {
                continue;
            }
            self.last_receipt += 1;
            let attempt = before.saturating_add(1);
            let taken = Taken { number, attempt, until: now + lease };
            group.taken.insert(self.last_receipt, taken);
            found.push(self.log[index].delivered(self.last_receipt, attempt));
        }
        (found, group.taken.values().map(|taken| taken.until).min())
    }

    pub(super) fn settle(&mut self, group: &str, receipts: &[u64], fate: Fate) {
        let Some(group) = self.groups.get_mut(group) else { return };
        for receipt in receipts {
            // Without it the lease has ended, and another member may have it.
            let Some(mut taken) = group.taken.remove(receipt) else { continue };
            match fate {
                Fate::Done => {
                    let index = self.log.binary_search_by_key(&taken.number, |entry| entry.number);
                    if let Some(index) = index.ok().filter(|index| !self.log[*index].keep) {
                        self.log.remove(index);
                    }
                }
                Fate::GiveBack => {
                    group.returned.insert(taken.number, taken.attempt);
                    self.bell.notify_waiters();
                }
                Fate::Keep { lease } => {
                    taken.until = Instant::now() + Duration::from_millis(lease);
                    group.taken.insert(*receipt, taken);
                }
            }
        }
    }

    /// How many messages of a group wait, and how many are taken.
    pub(super) fn lag(&mut self, group: &str) -> (usize, usize) {
        let Some(group) = self.groups.get_mut(group) else { return (0, 0) };
        group.end_leases(Instant::now());
        let next = self.log.partition_point(|entry| entry.number < group.next);
        (self.log.len() - next + group.returned.len(), group.taken.len())
    }

    pub(super) fn history(&self, before: Option<u64>, limit: usize) -> Vec<Delivered> {
        let end = before.unwrap_or(u64::MAX);
        let end = self.log.partition_point(|entry| entry.number < end);
        self.log.range(..end).rev().take(limit).map(|entry| entry.delivered(0, 0)).collect()
    }

    pub(super) fn has(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    pub(super) fn forget(&mut self, group: &str) {
        self.groups.remove(group);
    }

    /// Whether it has neither messages nor groups.
    pub(super) fn is_unused(&self) -> bool {
        let now = Instant::now();
        self.groups.is_empty() && self.log.iter().all(|entry| entry.has_expired(now))
    }

    /// Waits until there is something new, from now on.
    pub(super) fn bell(&self) -> impl Future<Output = ()> + use<> {
        let mut rung = Box::pin(Arc::clone(&self.bell).notified_owned());
        rung.as_mut().enable();
        rung
    }
}

impl Group {
    /// Returns messages that were neither settled nor renewed in time.
    fn end_leases(&mut self, now: Instant) {
        let ended = self.taken.extract_if(|_, taken| taken.until <= now);
        self.returned.extend(ended.map(|(_, taken)| (taken.number, taken.attempt)));
    }
}
