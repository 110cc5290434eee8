//! The prefetch count of a listener's consumer, which follows the driver's window.
//!
//! RabbitMQ applies a prefetch count to consumers that start after it was set, and quorum queues refuse
//! one for the whole channel. So the consumer is replaced when the window has changed: it is cancelled,
//! everything that was delivered to it goes to a backlog, and only then another one starts. What it
//! delivers is newer, so events keep their order. Two consumers at once would not keep it: a quorum queue
//! hands each of them every other event, in batches.
//!
//! What a quorum queue delivers while its consumer is cancelled is returned to the queue, and counts as
//! one delivery more, though it was not seen. So a consumer is replaced only when RabbitMQ has nothing to
//! deliver: all that its prefetch count allows has arrived, and [`Gate`] holds acknowledgements back
//! until it is cancelled. A consumer with less than that limits nothing, and may stay.
//!
//! Replacing takes three requests, so it is done seldom:
//!
//! - to grow, when the prefetch count is under three quarters of the window, and the window has grown
//!   fourfold, or from one, or the consumer is [`SETTLED`];
//! - to shrink, when the window has halved. With a window of one, for a suspect or a probe, nothing else
//!   is taken before all is settled.
//!
//! The broker counts by consumer: what earlier consumers were given and is not settled comes on top of
//! the prefetch count of the next one ([`Active::next_size`]). Where both would exceed the limit of the
//! flow control, the next consumer waits until enough is settled, but not for ever: handlers may take
//! long, or hang. After [`DRAIN`] it starts, and the broker may then push as many more as the listener
//! has handlers; they wait in the backlog, as the driver takes no more than the limit.
//!
//! Held by `a_process_that_joins_late_gets_its_share_of_the_backlog`,
//! `three_processes_share_what_waits`, `no_more_is_taken_than_the_limit` and
//! `slow_handlers_outlive_the_consumer_timeout` (tests/bus/listening/sharing.rs); that nothing counts as
//! delivered twice by `one_bad_event_among_good_ones_is_dead_lettered_after_its_tries`
//! (tests/bus/listening/outages.rs).

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{message::Delivery, options::BasicQosOptions, types::ShortString};
use lightbus_core::{Name, Result, transport::FlowControl};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout},
};

use super::watch::{Report, Reports};
use crate::{
    error::Sent,
    session::{Inbox, Session, try_next},
};

/// How long a prefetch count stays that limits a little.
const SETTLED: Duration = Duration::from_millis(250);
/// How long a consumer waits for room under the limit.
const DRAIN: Duration = Duration::from_secs(2);
/// How long counting may take. Where nothing fetches, nothing is counted.
const COUNT_LIMIT: Duration = Duration::from_millis(100);
/// How often a channel without a consumer is looked at: a consumer would tell that it is lost.
const LOOK: Duration = Duration::from_millis(250);

/// The window that the driver asks for.
pub(super) struct Prefetch {
    window: AtomicUsize,
    /// The most that may be unsettled.
    limit: usize,
    /// How many handlers there are.
    floor: usize,
    changed: Notify,
    /// Sent whenever all that has arrived is counted.
    counted: watch::Sender<()>,
}

impl Prefetch {
    pub(super) fn new(flow: &FlowControl) -> Self {
        let limit = flow.max_in_flight;
        // Until the driver says more, a probe.
        let first = if flow.concurrency.is_some() { 1 } else { limit };
        let floor = flow.concurrency.unwrap_or(limit).clamp(1, limit.max(1));
        Self {
            window: AtomicUsize::new(first),
            limit,
            floor,
            changed: Notify::new(),
            counted: watch::Sender::new(()),
        }
    }

    pub(super) fn resize(&self, window: usize) {
        self.window.store(window, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Has a fetch under way look at what is reported.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Waits until all that has arrived is counted, at most [`COUNT_LIMIT`]: something may lie in the inbox
    /// that the waiting fetch has not seen yet.
    pub(super) async fn count(&self) {
        let mut counted = self.counted.subscribe();
        self.changed.notify_one();
        let _ = timeout(COUNT_LIMIT, counted.changed()).await;
    }

    fn window(&self) -> usize {
        // 0 would be no limit.
        self.window.load(Ordering::Relaxed).clamp(1, u16::MAX.into())
    }
}

/// Held while deliveries are acknowledged, and while a consumer is replaced.
pub(super) type Gate = tokio::sync::Mutex<()>;

/// How many deliveries are not settled.
#[derive(Default)]
struct Count {
    unsettled: AtomicUsize,
    /// Whether a fetch waits for it to fall.
    awaited: AtomicBool,
    fallen: Notify,
}

impl Count {
    fn unsettled(&self) -> usize {
        self.unsettled.load(Ordering::SeqCst)
    }

    fn settle(&self) {
        self.unsettled.fetch_sub(1, Ordering::SeqCst);
        if self.awaited.load(Ordering::SeqCst) {
            self.fallen.notify_one();
        }
    }
}

/// Counts a delivery as unsettled until it is released, and as in flight until it is dropped.
pub(super) struct Held {
    /// Of the channel and of the consumer; empty once it is released.
    counts: Mutex<Option<[Arc<Count>; 2]>>,
    in_flight: Arc<AtomicU64>,
}

impl Held {
    /// Must be called before the delivery is acknowledged, for which RabbitMQ may push another one.
    pub(super) fn release(&self) {
        // Nothing panics while it is locked.
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).take();
        counts.iter().flatten().for_each(|count| count.settle());
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What there is instead of a delivery.
pub(super) enum Stop {
    /// The consumer has ended, with what it reported.
    Ended(Option<lapin::Error>),
    /// The consumer goes on.
    Reported(Report),
}

/// What a consumer has next.
pub(super) type Next = std::result::Result<(Delivery, Held), Stop>;

/// A consumer of the queue.
struct Consumer {
    tag: ShortString,
    size: usize,
    count: Arc<Count>,
}

impl Consumer {
    /// Whether all that RabbitMQ may deliver to it has arrived.
    fn is_full(&self) -> bool {
        self.count.unsettled() >= self.size
    }
}

/// A channel, and the consumer on it.
pub(super) struct Active {
    pub(super) session: Arc<Session>,
    queue: String,
    prefetch: Arc<Prefetch>,
    gate: Arc<Gate>,
    in_flight: Arc<AtomicU64>,
    /// Of all consumers of the channel.
    count: Arc<Count>,
    inbox: Inbox,
    /// What has arrived, and is not handed out.
    backlog: VecDeque<(Delivery, Held)>,
    /// `None` while a smaller window empties, and at the end.
    consumer: Option<Consumer>,
    /// When it started, or was cancelled.
    since: Instant,
    ended: Option<Stop>,
    reports: Arc<Reports>,
    /// Nothing is consumed any more.
    retired: bool,
}

impl Active {
    pub(super) fn new(
        session: Arc<Session>,
        queue: String,
        prefetch: Arc<Prefetch>,
        gate: Arc<Gate>,
        in_flight: Arc<AtomicU64>,
        reports: Arc<Reports>,
    ) -> Self {
        Self {
            session,
            queue,
            prefetch,
            gate,
            in_flight,
            count: Arc::default(),
            inbox: Inbox::new(),
            backlog: VecDeque::new(),
            consumer: None,
            since: Instant::now(),
            ended: None,
            reports,
            retired: false,
        }
    }

    /// Starts the first consumer.
    pub(super) async fn start(&mut self) -> Result<()> {
        self.consume(self.prefetch.window()).await
    }

    /// Starts a consumer. There must be none.
    async fn consume(&mut self, size: usize) -> Result<()> {
        let Session { link, channel, .. } = &*self.session;
        let prefetch = u16::try_from(size).unwrap_or(u16::MAX);
        let limit = channel.basic_qos(prefetch, BasicQosOptions { global: false });
        link.request(limit, Sent::Harmless).await?;
        self.inbox = Inbox::new();
        let name = Name::from(&*self.queue);
        let tag = self.session.consume(&self.queue, name, &mut self.inbox).await?;
        self.consumer = Some(Consumer { tag, size, count: Arc::default() });
        self.since = Instant::now();
        Ok(())
    }

    /// Waits for the next delivery. Replaces the consumer where the window has changed.
    pub(super) async fn next(&mut self) -> Result<Next> {
        loop {
            self.resize().await?;
            if let Some(report) = self.reports.take() {
                return Ok(Err(Stop::Reported(report)));
            }
            if let Some(next) = self.try_next() {
                return Ok(next);
            }
            if !self.session.is_alive() && self.consumer.is_none() {
                return Ok(Err(Stop::Ended(None)));
            }
            let prefetch = Arc::clone(&self.prefetch);
            prefetch.counted.send_replace(());
            let looks = self.looks_again();
            tokio::select! {
                biased;
                next = self.inbox.next(), if self.consumer.is_some() => self.arrived(next),
                () = prefetch.changed.notified() => {}
                () = self.count.fallen.notified(), if self.consumer.is_none() => {}
                () = tokio::time::sleep(LOOK), if looks => {}
            }
        }
    }

    /// Returns the next delivery, if it is here.
    pub(super) fn try_next(&mut self) -> Option<Next> {
        self.arrive();
        if let Some(ended) = self.ended.take() {
            // RabbitMQ has requeued what the backlog has.
            return Some(Err(ended));
        }
        self.backlog.pop_front().map(Ok)
    }

    /// Replaces the consumer if its prefetch count is too far from the window. Starts one if there is
    /// none, and room for one.
    async fn resize(&mut self) -> Result<()> {
        self.shrink().await;
        let window = self.prefetch.window();
        if let Some(Consumer { size, .. }) = self.consumer {
            let enough = size >= self.prefetch.floor.min(window) && size * 4 >= window * 3;
            let much = size == 1 || window / 4 >= size;
            if enough || !(much || self.since.elapsed() >= SETTLED) || !self.cancel_full().await {
                return Ok(());
            }
        }
        if self.retired {
            return Ok(());
        }
        // In this order, so that whatever is settled in between is heard of.
        self.count.awaited.store(true, Ordering::SeqCst);
        let Some(size) = self.next_size(window) else { return Ok(()) };
        self.count.awaited.store(false, Ordering::SeqCst);
        self.consume(size).await
    }

    /// Cancels the consumer if its prefetch count is far over the window.
    pub(super) async fn shrink(&mut self) {
        let window = self.prefetch.window();
        if self.consumer.as_ref().is_some_and(|consumer| window <= consumer.size / 2) {
            self.cancel_full().await;
        }
    }

    /// The prefetch count with which the next consumer may start now.
    fn next_size(&self, window: usize) -> Option<usize> {
        let (limit, floor) = (self.prefetch.limit, self.prefetch.floor.min(window));
        let unsettled = self.count.unsettled();
        let left = limit.saturating_sub(unsettled);
        match unsettled {
            0 => Some(window),
            _ if unsettled >= window => None,
            _ if left >= window => Some(window),
            _ if left >= floor && left * 4 >= window * 3 => Some(left),
            _ if self.since.elapsed() >= DRAIN => Some(floor.max(window - unsettled)),
            _ => None,
        }
    }

    /// Whether time alone may change what is to be done.
    fn looks_again(&self) -> bool {
        let window = self.prefetch.window();
        self.consumer.as_ref().is_none_or(|consumer| window > consumer.size)
    }

    /// Takes over what has arrived.
    fn arrive(&mut self) {
        while self.ended.is_none()
            && self.consumer.is_some()
            && let Some(next) = try_next(&mut self.inbox)
        {
            self.arrived(Some(next));
        }
    }

    fn arrived(&mut self, next: Option<(Name, Option<lapin::Result<Delivery>>)>) {
        match next {
            Some((_, Some(Ok(delivery)))) => {
                let held = self.hold();
                self.backlog.push_back((delivery, held));
            }
            Some((_, Some(Err(error)))) => self.ended = Some(Stop::Ended(Some(error))),
            Some((_, None)) | None => self.ended = Some(Stop::Ended(None)),
        }
    }

    /// Counts a delivery.
    fn hold(&self) -> Held {
        let consumer = self.consumer.as_ref().map(|consumer| Arc::clone(&consumer.count));
        let counts = [Arc::clone(&self.count), consumer.unwrap_or_default()];
        for count in &counts {
            count.unsettled.fetch_add(1, Ordering::SeqCst);
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Held { counts: Mutex::new(Some(counts)), in_flight: Arc::clone(&self.in_flight) }
    }

    /// Cancels the consumer if RabbitMQ has nothing to deliver to it. Returns whether it was cancelled.
    async fn cancel_full(&mut self) -> bool {
        let gate = Arc::clone(&self.gate);
        let _acknowledged = gate.lock().await;
        self.arrive();
        let full = self.ended.is_none() && self.consumer.as_ref().is_some_and(Consumer::is_full);
        if full {
            self.cancel().await;
        }
        full
    }

    /// Cancels the consumer. All that was delivered to it is in the backlog then.
    async fn cancel(&mut self) {
        let Some(tag) = self.consumer.as_ref().map(|consumer| consumer.tag.clone()) else { return };
        self.session.cancel(&[tag]).await;
        while let Some((_, delivery)) = try_next(&mut self.inbox) {
            if let Some(Ok(delivery)) = delivery {
                let held = self.hold();
                self.backlog.push_back((delivery, held));
            }
        }
        self.consumer = None;
        self.since = Instant::now();
    }

    /// Cancels the consumer for good, so that requeued messages are not delivered here again. Returns the
    /// tags of the deliveries that were not handed out.
    pub(super) async fn retire(&mut self) -> Vec<u64> {
        self.retired = true;
        self.cancel().await;
        self.backlog.drain(..).map(|(delivery, _)| delivery.delivery_tag).collect()
    }
}
