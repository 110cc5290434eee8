//! Entries of streams: their ids, and their fields as Redis returns them.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redis::Value;

use crate::value;

/// The id of an entry: a time in milliseconds, and a number within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryId {
    pub(super) ms: u64,
    pub(super) seq: u64,
}

impl EntryId {
    /// Before all entries.
    pub(super) const ZERO: Self = Self { ms: 0, seq: 0 };

    pub(super) fn parse(text: &str) -> Option<Self> {
        match text.split_once('-') {
            Some((ms, seq)) => Some(Self { ms: ms.parse().ok()?, seq: seq.parse().ok()? }),
            None => Some(Self { ms: text.parse().ok()?, seq: 0 }),
        }
    }

    /// Returns the id just before the first entry that is not older than `time`.
    pub(super) fn before(time: SystemTime) -> Self {
        Self::before_ms(milliseconds(time))
    }

    /// Returns the id just before the first entry of the same millisecond.
    pub(super) fn before_its_millisecond(self) -> Self {
        Self::before_ms(self.ms)
    }

    fn before_ms(ms: u64) -> Self {
        ms.checked_sub(1).map_or(Self::ZERO, |ms| Self { ms, seq: u64::MAX })
    }

    /// Returns the lowest id after this one.
    pub(super) fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { seq, ..self },
            None => Self { ms: self.ms.saturating_add(1), seq: 0 },
        }
    }

    pub(super) fn time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.ms)).unwrap_or(UNIX_EPOCH)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Returns a time in milliseconds since 1970, truncated, because entries have no finer time: one of the
/// same millisecond counts as not older.
pub(super) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// An entry as Redis returns it; without fields if it was deleted while it was pending.
pub(super) struct RawEntry {
    pub(super) id: EntryId,
    pub(super) fields: Option<Vec<Value>>,
}

impl RawEntry {
    /// Splits an entry into id and fields; `None` for null, which some versions return for a deleted entry.
    pub(super) fn new(entry: Value) -> Option<Self> {
        let [id, fields] = <[Value; 2]>::try_from(value::items(entry)?).ok()?;
        Some(Self { id: EntryId::parse(value::text(&id)?)?, fields: value::items(fields) })
    }
}
