//! The expiry keys of calls: each lives as long as its caller waits, and whoever deletes it may run the
//! call.
//!
//! What a key has left to live when it is deleted is the deadline of its call. Nothing else tells it: a
//! Python caller sends no deadline, and one that a caller sends does not know how long the call waits in
//! its queue.

use std::{fmt, time::Duration};

use lightbus_core::Name;
use redis::{Cmd, RedisWrite, Value};
use tokio::time::Instant;

use crate::value;

/// The name of a call's expiry key.
struct ExpiryKey<'a>(&'a str);

impl fmt::Display for ExpiryKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("rpc_expiry_key:")?;
        f.write_str(self.0)
    }
}

/// Sets the expiry key of a call, in milliseconds.
pub(super) fn set_expiry(id: &str, left: u64) -> Cmd {
    // With capacity, because each call has one.
    let mut set = Cmd::with_capacity(5, 48 + id.len());
    set.arg("SET");
    set.write_arg_fmt(ExpiryKey(id));
    set.arg(1).arg("PX").arg(left);
    set
}

/// Returns a command for the expiry keys of calls.
pub(super) fn of_expiry_keys<'a>(
    command: &str,
    ids: impl ExactSizeIterator<Item = &'a Name> + Clone,
) -> Cmd {
    let size: usize = ids.clone().map(|id| 16 + id.len()).sum();
    let mut keys = Cmd::with_capacity(1 + ids.len(), command.len() + size);
    keys.arg(command);
    ids.for_each(|id| keys.write_arg_fmt(ExpiryKey(id)));
    keys
}

/// What an expiry key had left to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// There is no key: the call has expired, or another worker has taken it.
    Gone,
    /// This long. Between Python's `SET` and `EXPIRE`, a key has no limit.
    Alive(Option<Duration>),
}

impl Left {
    /// Reads the answer to `PTTL`. Returns `None` if it is none.
    pub(super) fn read(answer: &Value) -> Option<Self> {
        match value::int(answer)? {
            -2 => Some(Self::Gone),
            -1 => Some(Self::Alive(None)),
            left => {
                u64::try_from(left).ok().map(|left| Self::Alive(Some(Duration::from_millis(left))))
            }
        }
    }
}

/// Returns the time until the deadline, unless it has passed.
pub(super) fn milliseconds_until(deadline: Instant, now: Instant) -> Option<u64> {
    let left = deadline.saturating_duration_since(now);
    if left.is_zero() {
        None
    } else {
        Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1))
    }
}
