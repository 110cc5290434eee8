//! The task behind a subscription.
//!
//! One task owns everything: the source, a [slot](super::slots) for each delivery in flight, and the
//! settlements that the broker does not have yet. Handlers own only an
//! [`AckHandle`](super::AckHandle), which sends the outcome over a channel. Nothing is locked.
//!
//! The loop waits for settlements, for the redelivery that is due next, and for at most one fetch, one
//! settlement and one [`begin`](Source::begin) in progress. Credit is the window less what is in flight;
//! a fetch asks for no more, so slow handlers stop the reading instead of filling the memory.
//!
//! The races, and the tests in `tests/subscription.rs` that hold them:
//!
//! - Settlements that arrive while one is in progress are sent together as the next one; if it fails, it
//!   is sent again with those that came since: `settlements_that_come_meanwhile_go_together`,
//!   `what_could_not_be_settled_is_settled_again_with_what_came_since`.
//! - `begin` borrows the token, so a delivery settled meanwhile is settled when it is back:
//!   `a_delivery_dropped_while_it_begins_is_not_lost`.
//! - A fetch in progress at close may have taken messages: `a_fetch_that_can_be_interrupted_is_not_dropped`.
//! - Closing waits for handlers, but not for ever: `close_waits_for_what_is_held_but_not_for_ever`.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout, timeout_at},
};

use super::{
    Backoff, Connectivity, Delivery, Outcome, Source,
    delivery::{AckHandle, DriverHandle, Fate, Settlement},
    session::AtWork,
    slots::{Slot, Slots},
    window::Window,
};
use crate::{Error, ErrorKind, FlowControl, Result, time::deadline_after};

/// With part of the credit free, wait this long for more of it before a small fetch.
const CREDIT_WAIT: Duration = Duration::from_millis(1);
/// How long a fetch that was interrupted may take to return.
const INTERRUPT_LIMIT: Duration = Duration::from_secs(2);
/// A dropped delivery comes again after this, doubled with each drop up to the longest.
const FIRST_REDELIVERY: Duration = Duration::from_millis(50);
const LONGEST_REDELIVERY: Duration = Duration::from_secs(10);
/// The waits before the broker is asked again after an error.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(5);

type Fetched<S> = Result<Vec<(Arc<<S as Source>::Message>, <S as Source>::Token)>>;
type Batch<S> = Vec<(<S as Source>::Token, Outcome)>;
type Begun<S> = (usize, <S as Source>::Token, Result<bool>);

pub(super) async fn run<S: Source>(
    source: Arc<S>,
    flow: FlowControl,
    out: mpsc::Sender<Result<Delivery<S::Message>>>,
    stopped: oneshot::Receiver<()>,
    connectivity: Connectivity,
    inbox: (Arc<DriverHandle>, mpsc::Receiver<Settlement>),
) -> Result<()> {
    let report = out.clone();
    let driver = Driver::new(source, flow, out, connectivity, inbox);
    match AssertUnwindSafe(driver.run(stopped)).catch_unwind().await {
        Ok(end) => end,
        Err(panic) => {
            let what = panic_text(&*panic);
            let error =
                Error::new(ErrorKind::Unexpected, format!("the transport panicked: {what}"))
                    .hint("This is a bug in the transport");
            let _ = report.try_send(Err(error.clone()));
            Err(error)
        }
    }
}

/// The text of a panic, where it has one.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

struct Driver<S: Source> {
    source: Arc<S>,
    flow: FlowControl,
    out: Option<mpsc::Sender<Result<Delivery<S::Message>>>>,
    settlements: mpsc::Receiver<Settlement>,
    handle: Arc<DriverHandle>,
    slots: Slots<S::Message, S::Token>,
    window: Window,
    /// The window that the source knows, and how many wait.
    told: (usize, usize),
    /// The bytes of what is held.
    bytes: usize,
    /// Those that wait to begin, each with who waits for it.
    begins: VecDeque<(usize, oneshot::Sender<Result<bool>>)>,
    /// Settled here, not yet at the broker.
    unsettled: Batch<S>,
    /// The room of a batch that is settled, for the next one.
    spare: Batch<S>,
    confirms: Vec<oneshot::Sender<Result<()>>>,
    at_work: Vec<AtWork>,
    /// Dropped deliveries, by the time at which they come again.
    again: BinaryHeap<Reverse<(Instant, usize)>>,
    fetches: Backoff,
    settles: Backoff,
    connectivity: Connectivity,
}

struct Settling<S: Source> {
    work: BoxFuture<'static, (Batch<S>, Result<()>)>,
    confirms: Vec<oneshot::Sender<Result<()>>>,
    at_work: Vec<AtWork>,
}

impl<S: Source> Driver<S> {
    fn new(
        source: Arc<S>,
        flow: FlowControl,
        out: mpsc::Sender<Result<Delivery<S::Message>>>,
        connectivity: Connectivity,
        (handle, settlements): (Arc<DriverHandle>, mpsc::Receiver<Settlement>),
    ) -> Self {
        let retry = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        Self {
            source,
            window: Window::new(&flow),
            told: (0, 0),
            bytes: 0,
            begins: VecDeque::new(),
            flow,
            out: Some(out),
            settlements,
            handle,
            slots: Slots::new(),
            unsettled: Vec::new(),
            spare: Vec::new(),
            confirms: Vec::new(),
            at_work: Vec::new(),
            again: BinaryHeap::new(),
            fetches: retry.clone(),
            settles: retry,
            connectivity,
        }
    }

    async fn run(mut self, mut stopped: oneshot::Receiver<()>) -> Result<()> {
        let mut fetching: Option<BoxFuture<'static, Fetched<S>>> = None;
        let mut settling: Option<Settling<S>> = None;
        let mut beginning: Option<BoxFuture<'static, Begun<S>>> = None;
        let handle = Arc::clone(&self.handle);
        let mut arrived = VecDeque::with_capacity(64);
        let mut buffer = Vec::with_capacity(64);
        let end = loop {
            self.tell_window();
            if fetching.is_none() && self.may_fetch() {
                fetching = Some(self.fetch(Duration::ZERO));
            }
            if settling.is_none() && !self.unsettled.is_empty() {
                settling = Some(self.start_settling(Duration::ZERO));
            }
            if beginning.is_none() {
                beginning = self.start_beginning();
            }
            let starved = fetching.is_none() && self.credit() > 0;
            let next_again = self.again.peek().map(|Reverse((when, _))| *when);
            tokio::select! {
                biased;
                _ = &mut stopped => break None,
                count = self.settlements.recv_many(&mut buffer, 512) => {
                    debug_assert!(count > 0, "the driver holds a sender");
                    self.settle_all(&mut buffer, false);
                }
                begun = poll_option(&mut beginning) => {
                    beginning = None;
                    self.finish_beginning(begun, false);
                }
                (batch, result) = poll_settling(&mut settling) => {
                    let Some(finished) = settling.take() else { continue };
                    settling = self.finish_settling(finished, batch, result);
                }
                fetched = poll_option(&mut fetching) => {
                    fetching = None;
                    match fetched {
                        Ok(messages) => {
                            self.fetched();
                            arrived.extend(messages);
                            self.hand_out_all(arrived.drain(..));
                        }
                        Err(error) if error.is_temporary() => {
                            let wait = self.fetches.failed();
                            self.window.interrupted();
                            self.connectivity.set_interrupted(true);
                            if self.fetches.failures() == 1 {
                                tracing::warn!(%error, "consuming was interrupted, trying again");
                            }
                            fetching = Some(self.fetch(wait));
                        }
                        Err(error) => break Some(error),
                    }
                }
                () = sleep_until_some(next_again) => self.deliver_again(),
                // More may be taken.
                () = handle.room.notified() => {}
                () = sleep(CREDIT_WAIT), if starved => {
                    fetching = Some(self.fetch(Duration::ZERO));
                }
            }
        };
        let failed = end.is_some();
        if let (Some(error), Some(out)) = (end, &self.out) {
            if error.kind() == ErrorKind::Closed {
                tracing::debug!(%error, "consuming ended");
            } else {
                tracing::error!(%error, "consuming ended");
            }
            let _ = out.try_send(Err(error));
        }
        if let (Some(fetch), false) = (fetching, failed) {
            self.finish_fetching(fetch).await;
        }
        self.out = None;
        if let Some(beginning) = beginning {
            // The token is needed to settle it.
            self.finish_beginning(beginning.await, true);
        }
        self.finish(settling).await
    }

    /// The most messages that may be held now: those that wait take no room from others.
    fn room(&self) -> usize {
        let waiting = self.handle.held_back.load(Ordering::Relaxed);
        self.window.size().saturating_add(waiting).min(self.flow.max_in_flight)
    }

    /// How many more messages may be held. Bytes count too: a few large ones fill it as well.
    fn credit(&self) -> usize {
        let held = self.slots.len();
        let free = self.room().saturating_sub(held);
        if free == 0 || held == 0 {
            return free;
        }
        let room = self.flow.max_bytes.saturating_sub(self.bytes);
        // As many as fit, if the next are as large as those that are held.
        let usual = (self.bytes / held).max(1);
        free.min(room / usual)
    }

    fn tell_window(&mut self) {
        let now = (self.room(), self.handle.held_back.load(Ordering::Relaxed));
        let before = std::mem::replace(&mut self.told, now);
        if now.0 != before.0 {
            self.source.resize(now.0);
        }
        if now.1 != before.1 {
            self.source.held_back(now.1);
        }
    }

    /// Small fetches are avoided: one freed slot is not worth a round trip if its neighbours will
    /// be free in a moment.
    fn may_fetch(&self) -> bool {
        self.credit() >= self.flow.batch.min(self.window.size() / 4).max(1)
    }

    fn fetch(&self, wait: Duration) -> BoxFuture<'static, Fetched<S>> {
        let source = Arc::clone(&self.source);
        let max = self.credit().min(self.flow.batch).max(1);
        Box::pin(async move {
            // Sleeping for nothing would still cost a tick of the timer.
            if !wait.is_zero() {
                sleep(wait).await;
            }
            source.fetch(max).await
        })
    }

    fn fetched(&mut self) {
        if self.fetches.failures() > 0 {
            tracing::info!(failures = self.fetches.failures(), "consuming goes on");
            self.connectivity.set_interrupted(false);
        }
        self.fetches.succeeded();
    }

    fn hand_out_all(&mut self, messages: impl Iterator<Item = (Arc<S::Message>, S::Token)>) {
        let (mut count, mut suspects) = (0, 0);
        for (message, token) in messages {
            count += 1;
            suspects += usize::from(self.hand_out(message, token));
        }
        self.window.took(count, suspects);
    }

    /// Returns whether the message is a suspect.
    fn hand_out(&mut self, message: Arc<S::Message>, token: S::Token) -> bool {
        let suspect = S::REDELIVERS && self.source.is_suspect(&message, &token);
        let bytes = self.source.size(&message);
        self.bytes += bytes;
        let slot = self.slots.insert(Slot {
            session: self.source.session(&token),
            token: Some(token),
            message: S::REDELIVERS.then(|| Arc::clone(&message)),
            drops: 0,
            bytes,
            suspect,
            begun: false,
            late: None,
        });
        self.deliver(slot, message);
        suspect
    }

    fn deliver(&mut self, index: usize, message: Arc<S::Message>) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let ack = AckHandle::new(index, slot, Arc::clone(&self.handle));
        let delivery = Delivery { message, ack };
        let sent = match &self.out {
            Some(out) => out.try_send(Ok(delivery)).map_err(|error| error.into_inner()),
            None => Err(Ok(delivery)),
        };
        // The subscription is closed: nobody will see it.
        if let Err(Ok(delivery)) = sent {
            delivery.ack.unseen();
        }
    }

    fn settle_all(&mut self, settlements: &mut Vec<Settlement>, closing: bool) {
        let before = self.slots.len();
        let mut suspects = 0;
        for settlement in settlements.drain(..) {
            suspects += usize::from(self.settled(settlement, closing));
        }
        let held = self.slots.len();
        self.window.settled(before.saturating_sub(held), suspects, held);
    }

    /// Returns whether a suspect is held no more.
    fn settled(&mut self, settlement: Settlement, closing: bool) -> bool {
        if let Some(slot) = self.slots.get_mut(settlement.slot)
            && slot.token.is_none()
        {
            // Decided when the token is back.
            slot.late = Some(settlement);
            return false;
        }
        let Settlement { slot, fate, confirm, at_work } = settlement;
        let outcome = match fate {
            Fate::Begun(confirm) => {
                // While closing nothing begins any more: who waits hears that the sender is gone.
                if !closing {
                    self.begins.push_back((slot, confirm));
                }
                return false;
            }
            Fate::Gone => {
                let Some(slot) = self.slots.remove(slot) else { return false };
                self.bytes = self.bytes.saturating_sub(slot.bytes);
                return slot.suspect;
            }
            Fate::Settled(Outcome::Retry) | Fate::Dropped if S::REDELIVERS && !closing => {
                self.wait_for_redelivery(slot);
                if let Some(confirm) = confirm {
                    let _ = confirm.send(Ok(()));
                }
                return false;
            }
            // It may have run: it must not run again.
            Fate::Settled(Outcome::Retry) | Fate::Dropped if !S::REDELIVERS => Outcome::Done,
            Fate::Dropped | Fate::Unseen => Outcome::Retry,
            Fate::Settled(outcome) => outcome,
        };
        let Some(slot) = self.slots.remove(slot) else { return false };
        self.bytes = self.bytes.saturating_sub(slot.bytes);
        if let Some(token) = slot.token {
            self.unsettled.push((token, outcome));
            self.confirms.extend(confirm);
            self.at_work.extend(at_work);
        }
        slot.suspect
    }

    /// Has the source note that the next of those that wait begins.
    fn start_beginning(&mut self) -> Option<BoxFuture<'static, Begun<S>>> {
        loop {
            let (index, confirm) = self.begins.pop_front()?;
            let Some(slot) = self.slots.get_mut(index) else { continue };
            if let Some(token) = slot.token.take() {
                let source = Arc::clone(&self.source);
                self.begins.push_front((index, confirm));
                return Some(Box::pin(async move {
                    let begun = source.begin(&token).await;
                    (index, token, begun)
                }));
            }
        }
    }

    fn finish_beginning(&mut self, (index, token, begun): Begun<S>, closing: bool) {
        let confirm = self.begins.pop_front().map(|(_, confirm)| confirm);
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.token = Some(token);
        slot.begun = matches!(begun, Ok(true));
        let late = slot.late.take();
        if let Err(error) = &begun {
            tracing::warn!(%error, "a message cannot be handled yet");
        }
        if let Some(confirm) = confirm {
            let _ = confirm.send(begun);
        }
        if let Some(late) = late {
            self.settle_all(&mut vec![late], closing);
        }
    }

    fn wait_for_redelivery(&mut self, index: usize) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.drops += 1;
            let wait = Backoff::wait(FIRST_REDELIVERY, LONGEST_REDELIVERY, slot.drops);
            self.again.push(Reverse((deadline_after(wait), index)));
        }
    }

    fn deliver_again(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((when, index))) = self.again.peek().copied() {
            if when > now {
                break;
            }
            self.again.pop();
            if let Some(message) = self.slots.get_mut(index).and_then(|slot| slot.message.clone()) {
                self.deliver(index, message);
            }
        }
    }

    fn start_settling(&mut self, wait: Duration) -> Settling<S> {
        let source = Arc::clone(&self.source);
        let batch = std::mem::replace(&mut self.unsettled, std::mem::take(&mut self.spare));
        let work = Box::pin(async move {
            if !wait.is_zero() {
                sleep(wait).await;
            }
            let result = source.settle(&batch).await;
            (batch, result)
        });
        let (confirms, at_work) =
            (std::mem::take(&mut self.confirms), std::mem::take(&mut self.at_work));
        Settling { work, confirms, at_work }
    }

    fn finish_settling(
        &mut self,
        finished: Settling<S>,
        batch: Batch<S>,
        result: Result<()>,
    ) -> Option<Settling<S>> {
        let Settling { confirms, at_work, .. } = finished;
        match result {
            Err(error) if error.is_temporary() => {
                let wait = self.settles.failed();
                if self.settles.failures() == 1 {
                    tracing::warn!(%error, "settling was interrupted, trying again");
                }
                // Those that came since go with it.
                let newer = std::mem::replace(&mut self.unsettled, batch);
                self.unsettled.extend(newer);
                let newer = std::mem::replace(&mut self.confirms, confirms);
                self.confirms.extend(newer);
                self.at_work.extend(at_work);
                Some(self.start_settling(wait))
            }
            result => {
                self.settles.succeeded();
                if let Err(error) = &result {
                    tracing::error!(%error, messages = batch.len(), "settling failed, the messages come again");
                }
                for confirm in confirms {
                    let _ = confirm.send(result.clone());
                }
                self.spare = batch;
                self.spare.clear();
                None
            }
        }
    }

    /// Lets the fetch under way end without losing what it takes.
    async fn finish_fetching(&mut self, fetch: BoxFuture<'static, Fetched<S>>) {
        let deadline = deadline_after(INTERRUPT_LIMIT);
        let source = Arc::clone(&self.source);
        let interrupted = async {
            // Keep polling the fetch while the interruption is on its way.
            let mut fetch = fetch;
            let mut interrupt = source.interrupt();
            tokio::select! {
                biased;
                fetched = &mut fetch => fetched.ok(),
                waits = &mut interrupt => if waits { fetch.await.ok() } else { None },
            }
        };
        match timeout_at(deadline, interrupted).await {
            Ok(messages) => {
                self.hand_out_all(messages.into_iter().flatten());
            }
            Err(_) => {
                tracing::warn!("a fetch did not end when interrupted; what it takes comes again")
            }
        }
    }

    /// Waits for what is held, settles, and gives back the rest.
    async fn finish(mut self, settling: Option<Settling<S>>) -> Result<()> {
        // A delivery that waits to come again is given back instead.
        for Reverse((_, slot)) in std::mem::take(&mut self.again) {
            let unseen = Settlement { slot, fate: Fate::Unseen, confirm: None, at_work: None };
            self.settled(unseen, true);
        }
        let deadline = deadline_after(self.flow.close_timeout);
        let mut settling = settling;
        let mut last = Ok(());
        let mut buffer = Vec::new();
        loop {
            if settling.is_none() && !self.unsettled.is_empty() {
                settling = Some(self.start_settling(Duration::ZERO));
            }
            if settling.is_none() && self.slots.len() == 0 {
                break;
            }
            tokio::select! {
                biased;
                _ = self.settlements.recv_many(&mut buffer, 512) => {
                    self.settle_all(&mut buffer, true);
                }
                (batch, result) = poll_settling(&mut settling) => {
                    let Some(finished) = settling.take() else { continue };
                    last = result.clone();
                    settling = self.finish_settling(finished, batch, result);
                }
                () = tokio::time::sleep_until(deadline) => {
                    if self.slots.len() > 0 {
                        tracing::warn!(held = self.slots.len(), "deliveries still held at close are given back");
                    }
                    let rest: Batch<S> = self.slots.drain()
                        .filter(|_| S::REDELIVERS)
                        .filter_map(|slot| Some((slot.token?, Outcome::Retry)))
                        .collect();
                    if !rest.is_empty() {
                        last = timeout(INTERRUPT_LIMIT, self.source.settle(&rest))
                            .await
                            .unwrap_or_else(|_| Err(Error::timeout("settling did not end", INTERRUPT_LIMIT)));
                    }
                    break;
                }
            }
        }
        self.source.close().await.and(last)
    }
}

async fn poll_option<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn poll_settling<S: Source>(settling: &mut Option<Settling<S>>) -> (Batch<S>, Result<()>) {
    match settling {
        Some(settling) => (&mut settling.work).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until_some(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
