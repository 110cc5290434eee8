//! Running a listener in batches.
//!
//! Two futures in one task, joined: the consumer moves deliveries from the subscription into a channel,
//! the gatherer takes batches out of it and calls the handler. The channel has room for everything the
//! subscription may have in flight, so the consumer never blocks on it.
//!
//! They must be joined rather than run one after the other: closing the subscription waits until every
//! delivery has been settled or dropped, and the last ones are held by the gatherer. On cut-off the
//! gatherer is dropped first, which returns what it holds
//! (test `closing_gives_back_a_batch_that_waits`).
//!
//! A batch that fails is retried as the batch of those that failed; the last attempt handles each event
//! alone, so that one bad event does not dead-letter the others. If none of them can be handled, they are
//! tried in turn, with some of those that come behind them, as events of a lane are (see
//! [`retry`](super::retry)), until one is handled. An event that was alone in its batch, or is the only
//! one that failed while none was handled, is compared with the next one behind it.

use std::{collections::VecDeque, sync::Arc};

use lightbus_core::{Backoff, Delivery, EventMessage, Outcome, Subscription, time::deadline_after};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    batches::{BatchFault, Batches},
    lane::{InOrder, Lane},
    listener::{End, Failure, Listener},
    retry::{AtWork, Exhausted},
};
use crate::bus::shared::{HandlerError, Phase, catch_panic, consume, cut_off, drained};

/// The tries of a batch.
struct Tries {
    attempts: u32,
    /// How many events had been handled when it was first tried.
    successes: u64,
    began: Instant,
}

impl Listener {
    /// Handles batch after batch, each as soon as it is full or has waited long enough.
    pub(super) async fn run_in_batches(
        &self,
        batches: &Batches,
        first: Subscription<EventMessage>,
        phase: watch::Receiver<Phase>,
    ) {
        let (arrived, take) = self.channel();
        let (watch, mut cut) = (phase.clone(), phase.clone());
        // Joined: closing the subscription waits for the deliveries that the gatherer holds.
        tokio::join!(consume(first, phase, &self.progress, || self.subscribe(), take), async {
            tokio::select! {
                biased;
                () = self.gather(batches, arrived, watch) => {}
                () = cut_off(&mut cut) => {}
            }
        },);
    }

    async fn gather(
        &self,
        batches: &Batches,
        arrived: mpsc::Receiver<Delivery<EventMessage>>,
        mut phase: watch::Receiver<Phase>,
    ) {
        let mut lane = InOrder::new(arrived);
        let mut batch: Vec<AtWork> = Vec::new();
        // A suspect, handled in a batch of its own after those before it.
        let mut suspect = None;
        loop {
            let first = match suspect.take() {
                Some(suspect) => Some(suspect),
                None => lane.next().await,
            };
            let Some(first) = first else { return };
            let alone = first.is_suspect();
            batch.extend(self.begin(first, &mut None, &phase).await);
            let full_by = deadline_after(batches.wait);
            while !alone && batch.len() < batches.most {
                tokio::select! {
                    biased;
                    () = drained(&mut phase) => break,
                    next = lane.next() => match next {
                        Some(next) if next.is_suspect() => {
                            suspect = Some(next);
                            break;
                        }
                        Some(next) => batch.extend(self.begin(next, &mut None, &phase).await),
                        None => break,
                    },
                    () = sleep_until(full_by) => break,
                }
            }
            self.handle_batch(batches, &mut batch, &mut lane, &mut phase).await;
            // What is left is given back.
            batch.drain(..).for_each(|event| self.end(event, End::Return));
        }
    }

    /// One attempt, with plugins before and after. If a plugin refuses an event, the whole batch fails:
    /// nothing of it was handled.
    async fn attempt_batch(
        &self,
        batches: &Batches,
        mut messages: Vec<Arc<EventMessage>>,
    ) -> Result<(), BatchFault> {
        if self.plugins.is_empty() {
            return (batches.handler)(&messages).await;
        }
        for message in &mut messages {
            let changed = Arc::make_mut(message);
            let asked = self.plugins.before_event_execution(changed, self.name()).await;
            asked.map_err(|error| BatchFault::Failed(error.into()))?;
        }
        let tried = (batches.handler)(&messages).await;
        for (index, message) in messages.iter().enumerate() {
            let handled = match &tried {
                Ok(()) => true,
                Err(BatchFault::Failed(error)) => error.reason_for(index, messages.len()).is_none(),
                Err(BatchFault::Unreadable(_)) => false,
            };
            if handled {
                self.after_execution(message).await;
            }
        }
        tried
    }

    /// Retries until all events are settled, or leaves in `batch` those to be returned.
    async fn handle_batch(
        &self,
        batches: &Batches,
        batch: &mut Vec<AtWork>,
        lane: &mut dyn Lane,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let mut later = Vec::new();
        loop {
            self.handle_up_to_most(batches, batch, &mut later, lane, phase).await;
            let returned = !batch.is_empty();
            batch.append(&mut later);
            if returned || batch.is_empty() {
                return;
            }
        }
    }

    /// As [`handle_batch`](Self::handle_batch), but moves those beyond the largest batch to `later`.
    async fn handle_up_to_most(
        &self,
        batches: &Batches,
        batch: &mut Vec<AtWork>,
        later: &mut Vec<AtWork>,
        lane: &mut dyn Lane,
        phase: &mut watch::Receiver<Phase>,
    ) {
        if self.takes_no_more(phase) {
            return;
        }
        self.end_where(batch, |_, message| {
            self.check(message).err().map(|error| self.unreadable(message, &error))
        });
        let policy = self.policy();
        let mut waits = Backoff::new(policy.first_wait, policy.longest_wait);
        let mut round = self.breaker.round();
        let (mut successes, mut began) = (self.breaker.successes(), Instant::now());
        let mut again = false;
        while !batch.is_empty() {
            if std::mem::take(&mut again) {
                later.extend(batch.drain(batches.most.min(batch.len())..));
                waits.succeeded();
                round = self.breaker.round();
            }
            let pass = tokio::select! {
                biased;
                pass = self.breaker.pass() => pass,
                () = drained(phase) => return,
            };
            if !self.go_on(batch, phase).await {
                return;
            }
            if batch.is_empty() {
                return;
            }
            if self.breaker.round() != round {
                round = self.breaker.round();
                waits.succeeded();
            }
            if waits.failures() == 0 {
                (successes, began) = (self.breaker.successes(), Instant::now());
            }
            let last = waits.failures() + 1 >= policy.attempts.max(1);
            if last && waits.failures() > 0 && batch.len() > 1 {
                // Each probe takes its turn.
                drop(pass);
                let tries = Tries { attempts: waits.failures() + 1, successes, began };
                if !self.breaker.is_open() && !self.handle_singly(batch, tries, lane, phase).await {
                    return;
                }
                self.wait_out_batch(batch, lane, phase).await;
                again = true;
                continue;
            }
            let Some(failure) = self.try_batch(batches, batch).await else { continue };
            let reasons = self.end_those_handled(batch, &failure);
            let wait = waits.failed();
            let attempt = waits.failures();
            tracing::warn!(
                listener = %self.name(), failed = batch.len(), attempt, reason = failure.reason(),
                "the handler of a batch failed"
            );
            let mut open = false;
            for (event, reason) in batch.iter_mut().zip(&reasons) {
                event.failed();
                open |= !event.compared && self.breaker.failed(&event.message().id, reason, last);
            }
            drop(pass);
            if open {
                batch.iter_mut().for_each(AtWork::hold_back);
                if last {
                    self.wait_out_batch(batch, lane, phase).await;
                    again = true;
                }
                continue;
            }
            if last && !failure.is_permanent() && batch.len() == 1 {
                let tries = Tries { attempts: attempt, successes, began };
                if let Some(one) = batch.pop().zip(reasons.into_iter().next()) {
                    self.judge_one_of_batch(one, &tries, batch, lane, phase).await;
                }
                again = true;
                continue;
            }
            if last || failure.is_permanent() {
                self.end_where(batch, |index, message| {
                    Some(self.give_up(message, reasons[index].clone(), attempt))
                });
                return;
            }
            batch.iter_mut().for_each(AtWork::hold_back);
            tokio::select! {
                () = drained(phase) => return,
                () = sleep(wait) => {}
            }
        }
    }

    /// Goes on with events that were held back, without those that the broker has taken back meanwhile.
    /// Returns `false` if none may be tried now.
    async fn go_on(&self, batch: &mut Vec<AtWork>, phase: &mut watch::Receiver<Phase>) -> bool {
        for event in batch.iter_mut() {
            if !event.acquire(&mut None, phase).await {
                return false;
            }
        }
        let mut ours = Vec::with_capacity(batch.len());
        for mut event in batch.drain(..) {
            if event.go_on() {
                ours.push(event);
            } else {
                self.end(event, End::Return);
            }
        }
        *batch = ours;
        true
    }

    /// One try of all of them. Ends those that are handled or cannot be read; why the others failed, or
    /// `None` if there is nothing to wait for.
    async fn try_batch(&self, batches: &Batches, batch: &mut Vec<AtWork>) -> Option<HandlerError> {
        let messages: Vec<_> = batch.iter().map(|one| Arc::clone(one.message())).collect();
        let _begun = self.progress.began_many(messages.len());
        // Reading the events, making the handler's future and dropping it may panic too.
        let tried = catch_panic(async {
            let attempt = self.attempt_batch(batches, messages);
            let Some(limit) = self.timeout else { return attempt.await };
            timeout(limit, attempt).await.unwrap_or_else(|_| {
                let reason = format!("the handler did not return within {limit:?}");
                Err(BatchFault::Failed(HandlerError::new(reason)))
            })
        });
        let tried = tried.await.map_err(|panic| format!("the handler panicked: {panic}"));
        match tried {
            Ok(Ok(())) => {
                self.breaker.succeeded();
                self.end_where(batch, |_, _| Some(End::Settle(Outcome::Done)));
                None
            }
            Ok(Err(BatchFault::Unreadable(errors))) => {
                self.end_where(batch, |index, message| {
                    let (_, error) = errors.iter().find(|(place, _)| *place == index)?;
                    Some(self.unreadable(message, error))
                });
                None
            }
            Ok(Err(BatchFault::Failed(error))) => Some(error),
            Err(reason) => Some(HandlerError::new(reason)),
        }
    }

    /// Ends those of a batch that its handler did not name as failed. Returns the reasons of the others.
    fn end_those_handled(&self, batch: &mut Vec<AtWork>, failure: &HandlerError) -> Vec<String> {
        let events = batch.len();
        let mut reasons: Vec<String> = Vec::new();
        self.end_where(batch, |index, _| match failure.reason_for(index, events) {
            Some(reason) => {
                reasons.push(reason);
                None
            }
            None => {
                self.breaker.succeeded();
                Some(End::Settle(Outcome::Done))
            }
        });
        reasons
    }

    /// Tries the events in turn, and some that come behind them, until one is handled. Then the others
    /// get all their tries again.
    async fn wait_out_batch(
        &self,
        batch: &mut Vec<AtWork>,
        lane: &mut dyn Lane,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let mut compared: VecDeque<_> = batch.drain(..).collect();
        self.wait_out(&mut compared, lane, &mut None, phase).await;
        batch.extend(compared);
        batch.iter_mut().for_each(|event| event.compared = true);
    }

    /// Compares the only one that has failed with those behind the batch. What is to be tried again is
    /// added to the batch.
    async fn judge_one_of_batch(
        &self,
        (event, reason): (AtWork, String),
        tries: &Tries,
        batch: &mut Vec<AtWork>,
        lane: &mut dyn Lane,
        phase: &mut watch::Receiver<Phase>,
    ) {
        let &Tries { attempts, successes, began } = tries;
        let exhausted = Exhausted { reason, attempts, successes, tried_for: began.elapsed() };
        let mut queue = VecDeque::new();
        self.judge(event, exhausted, &mut queue, lane, &mut None, phase).await;
        batch.extend(queue);
    }

    /// The last try: one by one, so that one event that cannot be handled takes no other with it. Where
    /// none of them is handled, something behind the handler is away: all are kept, and so are those
    /// that failed before it came back. Returns whether there is anything left to try.
    async fn handle_singly(
        &self,
        batch: &mut Vec<AtWork>,
        tries: Tries,
        lane: &mut dyn Lane,
        phase: &mut watch::Receiver<Phase>,
    ) -> bool {
        let (before, round) = (self.breaker.successes(), self.breaker.round());
        let mut failed: Vec<(AtWork, String)> = Vec::new();
        let mut left = std::mem::take(batch).into_iter();
        let mut stopped = false;
        for mut event in left.by_ref() {
            // Those that are not begun are given back.
            if self.takes_no_more(phase) {
                batch.push(event);
                stopped = true;
                break;
            }
            let message = Arc::clone(event.message());
            match self.try_once(&message).await {
                Ok(end) => {
                    self.breaker.succeeded();
                    self.end(event, end);
                }
                Err(Failure::Permanent(reason)) => {
                    let end = self.give_up(&message, reason, tries.attempts);
                    self.end(event, end);
                }
                Err(Failure::Passing(reason)) => {
                    event.failed();
                    if !event.compared {
                        self.breaker.failed(&message.id, &reason, true);
                    }
                    failed.push((event, reason));
                }
            }
        }
        batch.extend(left);
        let is_away = self.breaker.is_open() && self.breaker.successes() == before;
        let was_away = self.breaker.round() != round;
        if !stopped && !is_away && !was_away && failed.len() == 1 {
            if let Some(one) = failed.pop() {
                self.judge_one_of_batch(one, &tries, batch, lane, phase).await;
            }
            return !batch.is_empty();
        }
        let mut kept = Vec::new();
        for (event, reason) in failed {
            if (is_away || was_away) && !event.compared {
                kept.push(event);
            } else {
                let end = self.give_up(event.message(), reason, tries.attempts);
                self.end(event, end);
            }
        }
        batch.splice(..0, kept);
        !stopped && !batch.is_empty()
    }

    /// Ends those of which `end` says how they ended, and keeps the others, in order.
    fn end_where(
        &self,
        batch: &mut Vec<AtWork>,
        mut end: impl FnMut(usize, &Arc<EventMessage>) -> Option<End>,
    ) {
        let mut left = Vec::with_capacity(batch.len());
        for (index, event) in batch.drain(..).enumerate() {
            match end(index, event.message()) {
                Some(end) => self.end(event, end),
                None => left.push(event),
            }
        }
        *batch = left;
    }
}
