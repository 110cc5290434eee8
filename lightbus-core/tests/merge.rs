//! Several sources read as one, against sources that the test feeds. Time is paused.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lightbus_core::{
    Delivery, Error, ErrorKind, FlowControl, Merge, Outcome, Result, Source, Subscription,
};
use tokio::sync::Notify;

/// What a source has, and what became of it.
#[derive(Default)]
struct Queue {
    messages: Mutex<Vec<u32>>,
    bell: Notify,
    settled: Mutex<Vec<(u32, Outcome)>>,
    /// The most that a fetch asked for.
    asked: AtomicUsize,
    fails: AtomicBool,
    closed: AtomicUsize,
    interrupted: Notify,
}

impl Queue {
    fn push(&self, message: u32) {
        self.messages.lock().expect("a lock").push(message);
        self.bell.notify_one();
    }

    fn settled(&self) -> Vec<(u32, Outcome)> {
        self.settled.lock().expect("a lock").clone()
    }
}

/// Returns by itself when it is interrupted, or may be dropped.
struct Fed {
    queue: Arc<Queue>,
    interruptible: bool,
}

#[async_trait]
impl Source for Fed {
    type Message = u32;
    type Token = u32;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<u32>, u32)>> {
        self.queue.asked.fetch_max(max, Ordering::Relaxed);
        loop {
            if self.queue.fails.load(Ordering::Relaxed) {
                return Err(Error::new(ErrorKind::Unavailable, "as the test says"));
            }
            let taken: Vec<_> = {
                let mut messages = self.queue.messages.lock().expect("a lock");
                let count = messages.len().min(max);
                messages.drain(..count).collect()
            };
            if !taken.is_empty() {
                return Ok(taken.into_iter().map(|n| (Arc::new(n), n)).collect());
            }
            tokio::select! {
                () = self.queue.bell.notified() => {}
                () = self.queue.interrupted.notified() => return Ok(Vec::new()),
            }
        }
    }

    async fn settle(&self, settled: &[(u32, Outcome)]) -> Result<()> {
        self.queue.settled.lock().expect("a lock").extend_from_slice(settled);
        Ok(())
    }

    async fn interrupt(&self) -> bool {
        if self.interruptible {
            self.queue.interrupted.notify_one();
        }
        self.interruptible
    }

    async fn close(&self) -> Result<()> {
        self.queue.closed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn merged(queues: &[Arc<Queue>], flow: FlowControl) -> Subscription<u32> {
    let sources = queues
        .iter()
        .enumerate()
        .map(|(index, queue)| Fed { queue: Arc::clone(queue), interruptible: index % 2 == 0 });
    Subscription::spawn(Merge::new(sources.collect()), flow)
}

fn queues() -> [Arc<Queue>; 3] {
    Default::default()
}

async fn next(subscription: &mut Subscription<u32>) -> Delivery<u32> {
    let delivery = tokio::time::timeout(Duration::from_secs(60), subscription.next()).await;
    delivery.expect("in time").expect("not the end").expect("a delivery")
}

#[tokio::test(start_paused = true)]
async fn all_sources_are_read_and_each_settles_its_own() {
    let queues = queues();
    let mut merged = merged(&queues, FlowControl::new(9, 100));
    for (index, queue) in queues.iter().enumerate() {
        for n in 0..5 {
            queue.push(u32::try_from(index * 10 + n).expect("small"));
        }
    }
    let mut found = Vec::new();
    for _ in 0..15 {
        let delivery = next(&mut merged).await;
        found.push(*delivery.message);
        delivery.ack.settle(Outcome::Done).await.expect("settled");
    }
    found.sort_unstable();
    let expected: Vec<_> = (0..3).flat_map(|index| (0..5).map(move |n| index * 10 + n)).collect();
    assert_eq!(found, expected);
    for (index, queue) in queues.iter().enumerate() {
        let settled = queue.settled();
        assert_eq!(settled.len(), 5);
        assert!(
            settled
                .iter()
                .all(|(n, outcome)| *n as usize / 10 == index && *outcome == Outcome::Done)
        );
        assert_eq!(queue.asked.load(Ordering::Relaxed), 3, "its share of a batch of nine");
    }
    merged.close().await.expect("closed");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_fails_does_not_hold_up_the_others() {
    let queues = queues();
    queues[0].fails.store(true, Ordering::Relaxed);
    let mut merged = merged(&queues, FlowControl::new(9, 100));
    for n in 0..20 {
        queues[1].push(n);
        let delivery = next(&mut merged).await;
        assert_eq!(*delivery.message, n);
        delivery.ack.settle_later(Outcome::Done);
    }
    queues[0].fails.store(false, Ordering::Relaxed);
    queues[0].push(100);
    assert_eq!(*next(&mut merged).await.message, 100, "it is asked again");
}

#[tokio::test(start_paused = true)]
async fn closing_ends_all_fetches_and_gives_back_what_nobody_has_seen() {
    let queues = queues();
    let mut merged = merged(&queues, FlowControl::new(1, 1));
    queues[0].push(1);
    let held = next(&mut merged).await;
    // Without credit it is not asked: a fetch that was under way may take one all the same.
    for queue in &queues[1..] {
        queue.push(2);
    }
    let close = tokio::spawn(merged.close());
    held.ack.settle(Outcome::Done).await.expect("settled");
    close.await.expect("no panic").expect("closed");
    for queue in &queues {
        assert_eq!(queue.closed.load(Ordering::Relaxed), 1);
    }
    assert_eq!(queues[0].settled(), [(1, Outcome::Done)]);
    for queue in &queues[1..] {
        let left = queue.messages.lock().expect("a lock").len();
        let given_back = queue.settled();
        assert!(given_back.iter().all(|settled| *settled == (2, Outcome::Retry)));
        assert_eq!(left + given_back.len(), 1, "neither lost nor handed out");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_one_source_ends_the_subscription() {
    struct Panics;

    #[async_trait]
    impl Source for Panics {
        type Message = u32;
        type Token = u32;

        async fn fetch(&self, _: usize) -> Result<Vec<(Arc<u32>, u32)>> {
            panic!("as the test says");
        }

        async fn settle(&self, _: &[(u32, Outcome)]) -> Result<()> {
            Ok(())
        }
    }

    let mut merged = Subscription::spawn(Merge::new(vec![Panics, Panics]), FlowControl::new(1, 1));
    let error = merged.next().await.expect("an error").expect_err("not a delivery");
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    assert!(error.message().contains("as the test says"), "{error}");
}
