//! From an event's first try to its settlement.
//!
//! The events of a lane (all of a listener, or those of a key) are handled one after the other. One
//! that fails is retried while those behind it wait. When it has used up its tries, the next one of
//! its lane is tried once, to compare (see [`breaker`](super::breaker)): if that is handled, the first
//! is dead-lettered; if it fails too, both are kept and tried in turn, the older first, until one is
//! handled. Then the others get all their tries again, and are dead-lettered if these are used up, too.
//! An event that fails while the breaker is open, or opens it, is compared in the same way with those
//! that come behind it: what opened it may have been dead-lettered long ago, and no other event may be
//! at work.
//!
//! An event of which two deliveries came to nothing may have ended its processes. It is a suspect: it is
//! tried when no other suspect of this process is, and alone in its listener. Between two tries it leaves
//! both to others: in an outage they fail as well, which tells that it is no bad event. It always waits
//! for its turn among the suspects first, with no place in its listener, and for the place then; two that
//! did it the other way round would wait for each other. After as many deliveries as
//! [`deliveries`](super::on_error::RetryPolicy::deliveries) says it is dead-lettered unhandled.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use lightbus_core::{Backoff, Delivery, EventMessage, Outcome, Rejection};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    breaker::Breaker,
    key_queues::Permit,
    lane::Lane,
    listener::{End, Failure, Listener},
    on_error::OnError,
};
use crate::bus::shared::{Held, Phase, drained};

/// How many events join those that are compared: so many more bad ones in a row keep a lane from going
/// on, until the limit of the policy.
const MOST_JOINING: usize = 3;
/// One probe in so many is not of the oldest. After so many for each that is compared, another joins;
/// a batch counts as a few.
const PROBES_EACH: usize = 4;
const MOST_COUNTED: usize = 5;
/// A suspect waits so long at most until other suspects of the process are done.
const SUSPECT_LIMIT: Duration = Duration::from_secs(60);

/// An event at work.
pub(super) struct AtWork {
    delivery: Delivery<EventMessage>,
    /// Set for a suspect.
    turn: Option<Turn>,
    /// It failed while the breaker was open, and another event was handled since: now it is bad if its
    /// tries are used up once more, and its failures say nothing of others.
    pub(super) compared: bool,
    failures: Failures,
    /// A listener that waits for a retry is not stalled.
    _held: Held,
}

/// The turn of a suspect among those of its process.
struct Turn {
    suspects: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Waits until no other suspect is tried. Returns `false` if that takes too long.
    async fn acquire(&mut self, permit: &mut Option<Permit>) -> bool {
        if self.taken.is_some() {
            return true;
        }
        // The one that has its turn may wait for a place: not for this one's.
        if let Some(permit) = permit {
            permit.release();
        }
        let turn = timeout(SUSPECT_LIMIT, Arc::clone(&self.suspects).acquire_owned()).await;
        self.taken = turn.ok().and_then(Result::ok);
        self.taken.is_some()
    }
}

/// The failures of an event in all its tries, also those that do not count.
#[derive(Clone, Copy, Default)]
struct Failures {
    first: Option<Instant>,
    count: u32,
}

/// How the tries of an event ended.
enum Tried {
    Settled(End),
    /// One of them has failed, and the breaker is open.
    Open,
    /// All of them have failed.
    Exhausted(Exhausted),
}

/// The tries of an event that all have failed.
pub(super) struct Exhausted {
    pub(super) reason: String,
    pub(super) attempts: u32,
    /// How many other events had been handled when it first failed.
    pub(super) successes: u64,
    pub(super) tried_for: Duration,
}

impl Listener {
    /// Handles an event and, if it takes comparing, some that come behind it.
    pub(super) async fn handle(
        &self,
        first: Delivery<EventMessage>,
        lane: &mut dyn Lane,
        permit: &mut Option<Permit>,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let Some(first) = self.begin(first, permit, phase).await else { return };
        let mut queue = VecDeque::from([first]);
        while let Some(mut event) = queue.pop_front() {
            match self.try_until_settled(&mut event, permit, phase).await {
                Tried::Settled(end) => self.end(event, end),
                Tried::Open => {
                    let compared = VecDeque::from([event]);
                    self.wait_out_before(&mut queue, compared, lane, permit, phase).await;
                }
                Tried::Exhausted(exhausted) => {
                    self.judge(event, exhausted, &mut queue, lane, permit, phase).await;
                }
            }
            if *phase.borrow() >= Phase::Draining {
                queue.drain(..).for_each(|event| self.end(event, End::Return));
            }
        }
    }

    /// Dead-letters an event that has used up its tries, unless others fail as well: it and those are
    /// put in front of the queue when one of them has been handled.
    pub(super) async fn judge(
        &self,
        mut event: AtWork,
        exhausted: Exhausted,
        queue: &mut VecDeque<AtWork>,
        lane: &mut dyn Lane,
        permit: &mut Option<Permit>,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let Exhausted { reason, attempts, successes, tried_for } = exhausted;
        if event.compared || !self.breaker.is_enabled() || self.breaker.successes() > successes {
            return self.give_up_waiting(event, reason, attempts);
        }
        event.hold_back();
        let patience = Breaker::patience(tried_for, &self.policy());
        let other = match queue.pop_front() {
            Some(next) => Compared::With(next),
            None => self.compare(lane, successes, patience, permit, phase).await,
        };
        let mut other = match other {
            Compared::With(other) => other,
            // Something behind the handlers is away: as if it had not been tried yet.
            Compared::Open => return queue.push_front(event),
            Compared::Handled | Compared::Nothing => {
                return self.give_up_waiting(event, reason, attempts);
            }
            Compared::Drained => return self.end(event, End::Return),
        };
        // Tried once. If it is handled, the first is bad. If not, both wait for what they need.
        match self.probe(&mut other, permit, phase).await {
            Probe::Ended(end) => {
                self.end(other, end);
                self.give_up_waiting(event, reason, attempts);
            }
            // There will be something else to compare with.
            Probe::Gone => {
                self.end(other, End::Return);
                queue.push_front(event);
            }
            Probe::Drained => {
                self.end(event, End::Return);
                self.end(other, End::Return);
            }
            Probe::Failed => {
                let compared = VecDeque::from([event, other]);
                self.wait_out_before(queue, compared, lane, permit, phase).await;
            }
        }
    }

    /// Dead-letters an event that is held back, unless the broker has taken it back meanwhile.
    fn give_up_waiting(&self, mut event: AtWork, reason: String, attempts: u32) {
        let end = if event.go_on() {
            self.give_up(&event.delivery.message, reason, attempts)
        } else {
            End::Return
        };
        self.end(event, end);
    }

    /// Waits until one of them is handled, and puts the others in front of the queue: in their order,
    /// with all their tries again.
    async fn wait_out_before(
        &self,
        queue: &mut VecDeque<AtWork>,
        mut compared: VecDeque<AtWork>,
        lane: &mut dyn Lane,
        permit: &mut Option<Permit>,
        phase: &mut watch::Receiver<Phase>,
    ) {
        self.wait_out(&mut compared, lane, permit, phase).await;
        while let Some(mut event) = compared.pop_back() {
            event.compared = true;
            queue.push_front(event);
        }
    }

    /// Begins an event: `None` if it is not to be handled here. A suspect that was begun too often is
    /// dead-lettered.
    pub(super) async fn begin(
        &self,
        delivery: Delivery<EventMessage>,
        permit: &mut Option<Permit>,
        phase: &watch::Receiver<Phase>,
    ) -> Option<AtWork> {
        if self.takes_no_more(phase) {
            return None;
        }
        let mut turn = None;
        if delivery.is_suspect() {
            let before = delivery.message.attempt.saturating_sub(1);
            let limit = self.policy().deliveries.max(1);
            if before >= limit && matches!(self.on_error, OnError::Retry(_)) {
                self.dead_letter_unhandled(delivery, before);
                return None;
            }
            let suspects = Arc::clone(&self.inner.upgrade()?.suspects);
            let mut among = Turn { suspects, taken: None };
            if !among.acquire(permit).await {
                return None;
            }
            turn = Some(among);
        }
        if let Some(permit) = permit {
            permit.acquire(delivery.is_suspect()).await;
        }
        if self.takes_no_more(phase) {
            return None;
        }
        let delivery = delivery.begin().await?;
        Some(AtWork {
            delivery,
            turn,
            compared: false,
            failures: Failures::default(),
            _held: self.progress.hold(),
        })
    }

    fn dead_letter_unhandled(&self, delivery: Delivery<EventMessage>, before: u32) {
        let message = &delivery.message;
        let times = if before == 1 { "once".to_owned() } else { format!("{before} times") };
        let reason = format!("its process ended {times} while handling it");
        tracing::error!(
            listener = %self.name(), api = %message.api, event = %message.event, id = %message.id,
            reason, "the event is dead-lettered unhandled"
        );
        delivery.ack.settle_later(Outcome::Reject(Rejection::untried(reason)));
        self.handled.notify_waiters();
    }

    pub(super) fn end(&self, event: AtWork, end: End) {
        match end {
            End::Settle(outcome) => event.delivery.ack.settle_later(outcome),
            End::Return => drop(event),
        }
        self.handled.notify_waiters();
    }

    /// Tries an event as often as the policy says. Tries made while the breaker was open do not count.
    async fn try_until_settled(
        &self,
        event: &mut AtWork,
        permit: &mut Option<Permit>,
        phase: &mut watch::Receiver<Phase>,
    ) -> Tried {
        let message = Arc::clone(&event.delivery.message);
        if let Err(error) = self.check(&message) {
            return Tried::Settled(self.unreadable(&message, &error));
        }
        let policy = self.policy();
        let mut waits = Backoff::new(policy.first_wait, policy.longest_wait);
        let (mut round, mut successes) = (self.breaker.round(), self.breaker.successes());
        let mut began = Instant::now();
        loop {
            if !event.acquire(permit, phase).await {
                return Tried::Settled(End::Return);
            }
            let pass = tokio::select! {
                biased;
                pass = self.breaker.pass() => pass,
                () = drained(phase) => return Tried::Settled(End::Return),
            };
            if !event.go_on() {
                return Tried::Settled(End::Return);
            }
            if self.breaker.round() != round {
                round = self.breaker.round();
                event.compared = true;
                waits.succeeded();
            }
            if waits.failures() == 0 {
                (successes, began) = (self.breaker.successes(), Instant::now());
            }
            let reason = match self.try_once(&message).await {
                Ok(end) => {
                    self.breaker.succeeded();
                    return Tried::Settled(end);
                }
                Err(Failure::Permanent(reason)) => {
                    let attempts = waits.failures().saturating_add(1);
                    return Tried::Settled(self.give_up(&message, reason, attempts));
                }
                Err(Failure::Passing(reason)) => reason,
            };
            let wait = waits.failed();
            let attempt = waits.failures();
            tracing::warn!(
                listener = %self.name(), api = %message.api, event = %message.event, id = %message.id,
                attempt, reason, "a handler failed"
            );
            let exhausted = attempt >= policy.attempts.max(1);
            let open = !event.compared && self.breaker.failed(&message.id, &reason, exhausted);
            drop(pass);
            event.failed();
            event.release(permit);
            if open {
                return Tried::Open;
            }
            if exhausted {
                let tried_for = began.elapsed();
                let exhausted = Exhausted { reason, attempts: attempt, successes, tried_for };
                return Tried::Exhausted(exhausted);
            }
            tokio::select! {
                () = drained(phase) => return Tried::Settled(End::Return),
                () = sleep(wait) => {}
            }
        }
    }

    /// Waits for something to compare with an event that has used up its tries.
    async fn compare(
        &self,
        lane: &mut dyn Lane,
        successes: u64,
        patience: Duration,
        permit: &mut Option<Permit>,
        phase: &mut watch::Receiver<Phase>,
    ) -> Compared {
        let until = Instant::now().checked_add(patience).unwrap_or_else(Instant::now);
        let mut breaker = self.breaker.watch();
        loop {
            breaker.mark_unchanged();
            if self.breaker.is_open() {
                return Compared::Open;
            }
            if self.breaker.successes() > successes {
                return Compared::Handled;
            }
            let next = tokio::select! {
                biased;
                () = drained(phase) => return Compared::Drained,
                next = lane.next_until(until) => next,
                _ = breaker.changed() => continue,
            };
            let Some(next) = next else { return Compared::Nothing };
            if let Some(next) = self.begin(next, permit, phase).await {
                return Compared::With(next);
            }
        }
    }

    /// Tries events in turn, the oldest first, until one is handled. It is taken out.
    pub(super) async fn wait_out(
        &self,
        compared: &mut VecDeque<AtWork>,
        lane: &mut dyn Lane,
        permit: &mut Option<Permit>,
        phase: &mut watch::Receiver<Phase>,
    ) {
        compared.iter_mut().for_each(AtWork::hold_back);
        let mut probes = 0;
        let most = compared.len().saturating_add(MOST_JOINING);
        while self.breaker.is_open() && !compared.is_empty() {
            // The oldest is overtaken only if it keeps failing: it gets most of the probes.
            let turn = probes / PROBES_EACH;
            let others = compared.len() - 1;
            let other = others > 0 && probes % PROBES_EACH == PROBES_EACH - 1;
            let index = if other { 1 + turn % others } else { 0 };
            match self.probe(&mut compared[index], permit, phase).await {
                Probe::Failed => {}
                Probe::Ended(end) => {
                    if let Some(event) = compared.remove(index) {
                        self.end(event, end);
                    }
                }
                Probe::Gone => {
                    if let Some(event) = compared.remove(index) {
                        self.end(event, End::Return);
                    }
                    continue;
                }
                Probe::Drained => return,
            }
            probes += 1;
            let each = PROBES_EACH * compared.len().min(MOST_COUNTED);
            let due = probes >= each && compared.len() < most;
            if due && let Some(next) = lane.next_now() {
                let mut joining = self.begin(next, permit, phase).await;
                joining.iter_mut().for_each(AtWork::hold_back);
                compared.extend(joining);
            }
        }
    }

    /// One try that does not count.
    async fn probe(
        &self,
        event: &mut AtWork,
        permit: &mut Option<Permit>,
        phase: &mut watch::Receiver<Phase>,
    ) -> Probe {
        if !event.acquire(permit, phase).await {
            return Probe::Drained;
        }
        let message = Arc::clone(&event.delivery.message);
        let pass = tokio::select! {
            biased;
            pass = self.breaker.pass() => pass,
            () = drained(phase) => return Probe::Drained,
        };
        if !event.go_on() {
            return Probe::Gone;
        }
        if let Err(error) = self.check(&message) {
            return Probe::Ended(self.unreadable(&message, &error));
        }
        let tried = self.try_once(&message).await;
        let probe = match tried {
            Ok(end) => {
                self.breaker.succeeded();
                Probe::Ended(end)
            }
            Err(Failure::Permanent(reason)) => Probe::Ended(self.give_up(&message, reason, 1)),
            Err(Failure::Passing(reason)) => {
                tracing::warn!(listener = %self.name(), id = %message.id, reason, "a handler failed");
                self.breaker.failed(&message.id, &reason, true);
                event.failed();
                if event.outlasts(self.policy().longest_outage) {
                    Probe::Ended(self.give_up(&message, reason, event.failures.count))
                } else {
                    event.hold_back();
                    Probe::Failed
                }
            }
        };
        drop(pass);
        if let Some(permit) = permit {
            permit.release();
        }
        probe
    }
}

/// What there was to compare with.
enum Compared {
    With(AtWork),
    /// Another event was handled meanwhile.
    Handled,
    /// The breaker has opened meanwhile.
    Open,
    /// No other event came in time.
    Nothing,
    Drained,
}

/// How a try ended that does not count.
enum Probe {
    Ended(End),
    Failed,
    /// The broker has taken the event back.
    Gone,
    Drained,
}

impl AtWork {
    pub(super) fn message(&self) -> &Arc<EventMessage> {
        &self.delivery.message
    }

    /// Leaves its place to others while it waits.
    fn release(&mut self, permit: &mut Option<Permit>) {
        if let Some(permit) = permit {
            permit.release();
        }
        self.hold_back();
    }

    /// Notes that it waits: another event may be taken in its place, and the broker may take it back.
    pub(super) fn hold_back(&mut self) {
        self.delivery.ack.hold_back();
        if let Some(turn) = &mut self.turn {
            turn.taken = None;
        }
    }

    /// Whether it may be tried again: `false` if the broker has taken it back.
    pub(super) fn go_on(&mut self) -> bool {
        self.delivery.ack.go_on()
    }

    /// Notes a failed try.
    pub(super) fn failed(&mut self) {
        self.failures.first.get_or_insert_with(Instant::now);
        self.failures.count = self.failures.count.saturating_add(1);
    }

    /// Whether it has kept failing for so long.
    pub(super) fn outlasts(&self, limit: Duration) -> bool {
        self.failures.first.is_some_and(|first| first.elapsed() >= limit)
    }

    /// Takes a place among those that work. `false` if the bus drains, or another suspect takes too long.
    pub(super) async fn acquire(
        &mut self,
        permit: &mut Option<Permit>,
        phase: &mut watch::Receiver<Phase>,
    ) -> bool {
        let work = async {
            if let Some(turn) = &mut self.turn
                && !turn.acquire(permit).await
            {
                return false;
            }
            if let Some(permit) = permit {
                permit.acquire(self.turn.is_some()).await;
            }
            true
        };
        tokio::select! {
            biased;
            acquired = work => acquired,
            () = drained(phase) => false,
        }
    }
}
