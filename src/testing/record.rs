//! The record of what was fired and called during a test, up to a limit.

use std::sync::{Mutex, MutexGuard, PoisonError};

use lightbus_core::EventMessage;

use super::called::Called;

/// The default limit.
pub(super) const KEEP: usize = 10_000;

#[derive(Debug)]
pub(super) struct Record {
    keep: usize,
    kept: Mutex<Kept>,
}

/// The recorded messages: the first of each kind.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) events: Vec<EventMessage>,
    pub(super) calls: Vec<Called>,
    /// What was refused because no mock allowed it.
    pub(super) refused: Vec<String>,
    too_many: Option<&'static str>,
}

impl Record {
    pub(super) fn new(keep: usize) -> Self {
        Self { keep, kept: Mutex::default() }
    }

    pub(super) fn fired(&self, events: &[EventMessage]) {
        let mut kept = self.lock();
        let room = self.keep.saturating_sub(kept.events.len());
        if events.len() > room {
            kept.too_many.get_or_insert("events were fired");
        }
        kept.events.extend(events.iter().take(room).cloned());
    }

    pub(super) fn called(&self, call: Called) {
        let mut kept = self.lock();
        if kept.calls.len() < self.keep {
            kept.calls.push(call);
        } else {
            kept.too_many.get_or_insert("calls were made");
        }
    }

    pub(super) fn refused(&self, what: String) {
        let mut kept = self.lock();
        if kept.refused.len() < self.keep {
            kept.refused.push(what);
        }
    }

    pub(super) fn clear(&self) {
        *self.lock() = Kept::default();
    }

    /// Reads the record, or returns why it is incomplete.
    pub(super) fn read<T>(&self, look: impl FnOnce(&Kept) -> T) -> Result<T, String> {
        let kept = self.lock();
        match kept.too_many {
            None => Ok(look(&kept)),
            Some(what) => Err(format!(
                "more than {} {what}, and no more are recorded: check them earlier and `clear()`, or raise the limit with `TestBus::builder().keep(…)`",
                self.keep
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lightbus_core::Arguments;

    #[test]
    fn what_is_too_much_is_said_and_not_kept() {
        let record = Record::new(2);
        let event = EventMessage::new("1", "auth", "seen", 1, Arguments::new());
        record.fired(&[event.clone(), event.clone()]);
        assert_eq!(record.read(|kept| kept.events.len()), Ok(2));
        record.fired(&[event]);
        let error = record.read(|kept| kept.events.len()).unwrap_err();
        assert!(error.contains("more than 2 events") && error.contains("keep("), "{error}");
        record.clear();
        assert_eq!(record.read(|kept| kept.events.len()), Ok(0));
    }
}
