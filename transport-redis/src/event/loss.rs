//! Notices events that are lost to a listener: trimmed or deleted before it had read them, or while they
//! were pending.
//!
//! Redis skips what is not in a stream any more, and says nothing. From version 7 on it counts, for each
//! stream, the entries that were ever added, and for each group those that it has passed. What a group has
//! not passed and the stream has not got is lost. Redis corrects the count of a group late or never when
//! entries are trimmed, and its `lag` is wrong until then. So a script compares both and corrects the
//! count, in one step. Of several processes of a group, the one that corrects it reports the loss.
//!
//! The count is known where a group stands before the first entry, or behind the last one. A group
//! that reads among the oldest entries is therefore checked before each read, any other one at most
//! ten times a second. Held by `events_that_were_trimmed_before_they_were_read_are_reported`
//! (tests/transport/losses.rs).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use lightbus_core::time::after;
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::source::Listener;
use crate::value;

/// Returns how many entries the group has lost since its count was corrected, and whether it stands among
/// the oldest tenth of the stream.
const CHECK: &str = "\
local function map(list)
  local is = {}
  for i = 1, #list, 2 do is[list[i]] = list[i + 1] end
  return is
end
local function before(one, other)
  local ms, seq = string.match(one, '(%d+)-(%d+)')
  local other_ms, other_seq = string.match(other, '(%d+)-(%d+)')
  if ms ~= other_ms then return tonumber(ms) < tonumber(other_ms) end
  return tonumber(seq) < tonumber(other_seq)
end
local stream = map(redis.call('XINFO', 'STREAM', KEYS[1]))
local added, length = stream['entries-added'], stream['length']
if not added then return {0, 0} end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = map(info)
  if group['name'] == ARGV[1] then
    local last, read, passed = group['last-delivered-id'], group['entries-read'], nil
    if length == 0 then passed = added
    elseif before(last, stream['first-entry'][1]) then passed = added - length
    elseif not before(last, stream['last-entry'][1]) then passed = added
    elseif not read and group['lag'] then passed = added - group['lag']
    end
    if passed and passed ~= read then
      redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], last, 'ENTRIESREAD', passed)
    end
    local lost = 0
    if passed and read and passed > read then lost = passed - read end
    local waiting = added - (passed or read or added)
    return {lost, waiting * 10 > length * 9 and 1 or 0}
  end
end
return {0, 0}";

/// The time between two checks of a group that is not among the oldest entries.
const INTERVAL: Duration = Duration::from_millis(100);
/// The time before the next check if the server refuses one: the user may have no right to it.
const REFUSED: Duration = Duration::from_secs(60);
/// The time between two warnings of a kind.
const BETWEEN_WARNINGS: Duration = Duration::from_secs(60);

/// The command that checks a group.
pub(super) fn check(stream: &str, group: &str) -> Cmd {
    let mut check = redis::cmd("EVAL");
    check.arg(CHECK).arg(1).arg(stream).arg(group);
    check
}

/// What the lost events of a listener were.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lost {
    /// Not read yet.
    Unread,
    /// Read by a process of the group, and not acknowledged.
    Pending,
}

/// Counts the events that a listener has lost, and warns, at most once a minute for each kind.
#[derive(Debug, Default)]
pub(super) struct LossReport {
    unread: Mutex<Count>,
    pending: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    unreported: u64,
    total: u64,
    /// When the next warning may follow.
    next: Option<Instant>,
}

impl LossReport {
    /// Reads the answer to a check, and returns when the next one is due.
    pub(super) fn checked(
        &self,
        listener: &Listener,
        stream: &str,
        answer: Result<Value, impl std::fmt::Display>,
    ) -> Instant {
        let now = Instant::now();
        let numbers = match answer {
            Ok(answer) => value::items(answer).unwrap_or_default(),
            Err(error) => {
                tracing::debug!(%error, stream, "whether events were lost cannot be checked");
                return after(now, REFUSED);
            }
        };
        let number = |index: usize| numbers.get(index).and_then(value::int).unwrap_or(0);
        self.add(listener, stream, Lost::Unread, u64::try_from(number(0)).unwrap_or(0));
        // What was counted since the last warning.
        self.add(listener, stream, Lost::Pending, 0);
        if number(0) > 0 || number(1) > 0 { now } else { after(now, INTERVAL) }
    }

    /// Warns of what was counted since the last warnings.
    pub(super) fn finish(&self, listener: &Listener) {
        let stream = listener.streams.first().map_or("", |stream| &*stream.key);
        for (count, what) in [(&self.unread, Lost::Unread), (&self.pending, Lost::Pending)] {
            count.lock().unwrap_or_else(PoisonError::into_inner).next = None;
            self.add(listener, stream, what, 0);
        }
    }

    /// Counts lost events.
    pub(super) fn add(&self, listener: &Listener, stream: &str, what: Lost, lost: u64) {
        let count = match what {
            Lost::Unread => &self.unread,
            Lost::Pending => &self.pending,
        };
        // Nothing panics while it is locked.
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        count.unreported = count.unreported.saturating_add(lost);
        count.total = count.total.saturating_add(lost);
        let now = Instant::now();
        if count.unreported == 0 || count.next.is_some_and(|next| next > now) {
            return;
        }
        count.next = Some(after(now, BETWEEN_WARNINGS));
        let (lost, total) = (std::mem::take(&mut count.unreported), count.total);
        let group = &*listener.group;
        match what {
            Lost::Unread => tracing::warn!(
                stream,
                group,
                lost,
                total,
                "events were trimmed or deleted before the listener had read them, and are lost to it: \
                 raise `max_stream_length` where they are fired, or let more processes listen"
            ),
            Lost::Pending => tracing::warn!(
                stream,
                group,
                lost,
                total,
                "pending events were trimmed or deleted, and are lost to the listener unless a process \
                 still handles them: raise `max_stream_length` where they are fired"
            ),
        }
    }
}
