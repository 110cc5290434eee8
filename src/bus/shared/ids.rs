//! Message ids that are unique without coordination.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    sync::atomic::{AtomicU64, Ordering},
};

use lightbus_core::Name;

/// Ids made of 128 random bits for the process and a counter.
#[derive(Debug)]
pub(crate) struct Ids {
    process: String,
    next: AtomicU64,
}

impl Ids {
    pub(crate) fn new() -> Self {
        let random = || RandomState::new().build_hasher().finish();
        Self { process: format!("{:016x}{:016x}-", random(), random()), next: AtomicU64::new(0) }
    }

    pub(crate) fn next(&self) -> Name {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let mut digits = [0_u8; 16];
        let mut at = digits.len();
        let mut rest = count;
        loop {
            at -= 1;
            digits[at] = b"0123456789abcdef"[(rest & 15) as usize];
            rest >>= 4;
            if rest == 0 {
                break;
            }
        }
        let mut id = String::with_capacity(self.process.len() + 16);
        id.push_str(&self.process);
        id.extend(digits[at..].iter().map(|digit| char::from(*digit)));
        id.into()
    }
}
