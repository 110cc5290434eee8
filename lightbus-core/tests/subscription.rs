//! The driver behind a subscription, against a source that does as it is told. Time is paused: waits
//! take no time, and their lengths are exact.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use lightbus_core::{
    Delivery, Error, ErrorKind, FlowControl, Outcome, Result, Session, Source, Subscription,
};
use tokio::{sync::Notify, time::Instant};

/// What the source does when it is asked.
enum Step {
    Give(Vec<u32>),
    Fail(ErrorKind),
    Panic,
}

#[derive(Default)]
struct Script {
    fetches: Mutex<VecDeque<Step>>,
    /// How the next settlements end; when there is no more to say, well.
    settles: Mutex<VecDeque<Result<()>>>,
    /// Asked for, by each fetch.
    asked: Mutex<Vec<usize>>,
    settled: Mutex<Vec<Vec<(u32, Outcome)>>>,
    closed: Mutex<u32>,
    bell: Notify,
    /// While it is set, settling waits.
    slow: Mutex<Option<Arc<Notify>>>,
    interruptible: bool,
    interrupted: Notify,
    /// How the next beginnings end; when there is no more to say, well.
    begins: Mutex<VecDeque<Result<bool>>>,
    /// Begun, and resized to.
    begun: Mutex<Vec<u32>>,
    windows: Mutex<Vec<usize>>,
    session: Session,
}

/// Messages from here on are redelivered.
const REDELIVERED: u32 = 1000;

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Arc<Self> {
        Arc::new(Self { fetches: Mutex::new(steps.into_iter().collect()), ..Self::default() })
    }

    fn then(&self, step: Step) {
        self.fetches.lock().expect("a lock").push_back(step);
        self.bell.notify_one();
    }

    fn asked(&self) -> Vec<usize> {
        self.asked.lock().expect("a lock").clone()
    }

    fn settled(&self) -> Vec<Vec<(u32, Outcome)>> {
        self.settled.lock().expect("a lock").clone()
    }

    /// All settlements, one after the other.
    fn outcomes(&self) -> Vec<(u32, Outcome)> {
        self.settled().concat()
    }
}

/// Redelivers, as events do, or not, as calls.
struct Scripted<const REDELIVERS: bool>(Arc<Script>);

#[async_trait]
impl<const REDELIVERS: bool> Source for Scripted<REDELIVERS> {
    type Message = u32;
    type Token = u32;

    const REDELIVERS: bool = REDELIVERS;

    async fn fetch(&self, max: usize) -> Result<Vec<(Arc<u32>, u32)>> {
        self.0.asked.lock().expect("a lock").push(max);
        loop {
            let step = self.0.fetches.lock().expect("a lock").pop_front();
            match step {
                Some(Step::Give(mut messages)) => {
                    let rest = messages.split_off(max.min(messages.len()));
                    if !rest.is_empty() {
                        self.0.fetches.lock().expect("a lock").push_front(Step::Give(rest));
                    }
                    return Ok(messages.into_iter().map(|n| (Arc::new(n), n)).collect());
                }
                Some(Step::Fail(kind)) => return Err(Error::new(kind, "as the script says")),
                Some(Step::Panic) => panic!("as the script says"),
                None => {}
            }
            tokio::select! {
                () = self.0.bell.notified() => {}
                () = self.0.interrupted.notified() => {
                    // What it had on the way.
                    return Ok(vec![(Arc::new(77), 77)]);
                }
            }
        }
    }

    async fn settle(&self, settled: &[(u32, Outcome)]) -> Result<()> {
        let slow = self.0.slow.lock().expect("a lock").clone();
        self.0.settled.lock().expect("a lock").push(settled.to_vec());
        if let Some(slow) = slow {
            slow.notified().await;
        }
        self.0.settles.lock().expect("a lock").pop_front().unwrap_or(Ok(()))
    }

    fn is_suspect(&self, message: &u32, _: &u32) -> bool {
        *message >= REDELIVERED
    }

    async fn begin(&self, token: &u32) -> Result<bool> {
        self.0.begun.lock().expect("a lock").push(*token);
        tokio::task::yield_now().await;
        self.0.begins.lock().expect("a lock").pop_front().unwrap_or(Ok(true))
    }

    fn session(&self, _: &u32) -> Option<Session> {
        Some(self.0.session.clone())
    }

    fn size(&self, message: &u32) -> usize {
        *message as usize
    }

    fn resize(&self, window: usize) {
        self.0.windows.lock().expect("a lock").push(window);
    }

    async fn interrupt(&self) -> bool {
        if self.0.interruptible {
            self.0.interrupted.notify_one();
        }
        self.0.interruptible
    }

    async fn close(&self) -> Result<()> {
        *self.0.closed.lock().expect("a lock") += 1;
        Ok(())
    }
}

fn events(script: &Arc<Script>, flow: FlowControl) -> Subscription<u32> {
    Subscription::spawn(Scripted::<true>(Arc::clone(script)), flow)
}

fn calls(script: &Arc<Script>, flow: FlowControl) -> Subscription<u32> {
    Subscription::spawn(Scripted::<false>(Arc::clone(script)), flow)
}

async fn next(subscription: &mut Subscription<u32>) -> Delivery<u32> {
    subscription.next().await.expect("not the end").expect("a delivery")
}

/// Lets everything go on that can without time.
async fn settle_down() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_temporary_error_is_waited_out_longer_each_time() {
    let failures = (0..6).map(|_| Step::Fail(ErrorKind::Unavailable));
    let script = Script::new(failures.chain([Step::Give(vec![1])]));
    let began = Instant::now();
    let mut subscription = events(&script, FlowControl::new(1, 1));
    next(&mut subscription).await.ack.settle(Outcome::Done).await.unwrap();
    // 50 ms, doubled up to 5 s, each shortened by up to a half.
    let longest: u64 = [50, 100, 200, 400, 800, 1600].iter().sum();
    let waited = began.elapsed();
    assert!(waited <= Duration::from_millis(longest + 20), "{waited:?}");
    assert!(waited >= Duration::from_millis(longest / 2), "{waited:?}");
    assert_eq!(script.asked().len(), 8, "seven answers, and one fetch under way");
}

#[tokio::test(start_paused = true)]
async fn a_success_makes_the_next_wait_short_again() {
    let mut steps: Vec<_> = (0..8).map(|_| Step::Fail(ErrorKind::Unavailable)).collect();
    steps.extend([Step::Give(vec![1]), Step::Fail(ErrorKind::Unavailable), Step::Give(vec![2])]);
    let script = Script::new(steps);
    let mut subscription = events(&script, FlowControl::new(2, 8));
    let first = next(&mut subscription).await;
    let began = Instant::now();
    let second = next(&mut subscription).await;
    assert!(began.elapsed() <= Duration::from_millis(60), "{:?}", began.elapsed());
    drop((first, second));
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_ends_the_subscription() {
    let script = Script::new([Step::Give(vec![1]), Step::Fail(ErrorKind::Malformed)]);
    let mut subscription = events(&script, FlowControl::new(2, 8));
    let delivery = next(&mut subscription).await;
    let error = subscription.next().await.expect("the error").expect_err("no delivery");
    assert_eq!(error.kind(), ErrorKind::Malformed);
    // What is held can still be settled; then it is over.
    delivery.ack.settle(Outcome::Done).await.unwrap();
    assert!(subscription.next().await.is_none());
    subscription.close().await.unwrap();
    assert_eq!(script.outcomes(), [(1, Outcome::Done)]);
    assert_eq!(*script.closed.lock().expect("a lock"), 1);
    assert_eq!(script.asked().len(), 2, "it is not asked again");
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_fetch_is_an_error_with_its_text() {
    let script = Script::new([Step::Panic]);
    let mut subscription = events(&script, FlowControl::new(2, 8));
    let error = subscription.next().await.expect("the error").expect_err("no delivery");
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    assert!(error.to_string().contains("as the script says"), "{error}");
    assert!(subscription.next().await.is_none());
    assert!(subscription.close().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn settlements_that_come_meanwhile_go_together() {
    let script = Script::new([Step::Give((0..20).collect())]);
    let gate = Arc::new(Notify::new());
    *script.slow.lock().expect("a lock") = Some(Arc::clone(&gate));
    let mut subscription = events(&script, FlowControl::new(20, 20));
    next(&mut subscription).await.ack.settle_later(Outcome::Done);
    settle_down().await;
    let mut last = None;
    for n in 1..20 {
        let delivery = next(&mut subscription).await;
        match n {
            19 => last = Some(tokio::spawn(delivery.ack.settle(Outcome::Reject("no".into())))),
            _ => delivery.ack.settle_later(Outcome::Done),
        }
    }
    settle_down().await;
    assert_eq!(script.settled().len(), 1, "the first is under way, the others wait");
    let last = last.expect("the last");
    assert!(!last.is_finished(), "it is not confirmed before the broker has it");
    gate.notify_one();
    settle_down().await;
    assert_eq!(script.settled()[1].len(), 19, "all others in one round trip");
    assert_eq!(script.settled()[1][18], (19, Outcome::Reject("no".into())));
    gate.notify_one();
    last.await.unwrap().unwrap();
    assert_eq!(script.settled().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_settled_is_settled_again_with_what_came_since() {
    let script = Script::new([Step::Give(vec![1, 2, 3])]);
    let unavailable = || Err(Error::new(ErrorKind::Unavailable, "away"));
    script.settles.lock().expect("a lock").extend([unavailable(), unavailable()]);
    let mut subscription = events(&script, FlowControl::new(3, 3));
    let (one, two, three) = (
        next(&mut subscription).await,
        next(&mut subscription).await,
        next(&mut subscription).await,
    );
    one.ack.settle_later(Outcome::Done);
    settle_down().await;
    two.ack.settle_later(Outcome::Done);
    three.ack.settle(Outcome::Done).await.expect("confirmed when the broker is back");
    let done = |numbers: &[u32]| numbers.iter().map(|n| (*n, Outcome::Done)).collect::<Vec<_>>();
    let settled = script.settled();
    assert_eq!(settled[0], done(&[1]));
    assert_eq!(
        settled.last().unwrap(),
        &done(&[1, 2, 3]),
        "the same again, and those that came since"
    );
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_cannot_succeed_tells_who_waits() {
    let script = Script::new([Step::Give(vec![1, 2])]);
    script.settles.lock().expect("a lock").push_back(Err(Error::new(ErrorKind::Unexpected, "no")));
    let mut subscription = events(&script, FlowControl::new(3, 3));
    let error = next(&mut subscription).await.ack.settle(Outcome::Done).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    next(&mut subscription).await.ack.settle(Outcome::Done).await.expect("it goes on");
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_what_is_held_but_not_for_ever() {
    let script = Script::new([Step::Give(vec![1, 2, 3])]);
    let limit = Duration::from_secs(7);
    let flow = FlowControl::new(2, 2).close_within(limit);
    let mut subscription = events(&script, flow);
    let (one, two) = (next(&mut subscription).await, next(&mut subscription).await);
    let began = Instant::now();
    let close = tokio::spawn(subscription.close());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!close.is_finished(), "two are held");
    one.ack.settle(Outcome::Done).await.expect("settled while closing");
    close.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 7, "one was held until the end");
    assert_eq!(script.outcomes(), [(1, Outcome::Done), (2, Outcome::Retry)]);
    assert_eq!(*script.closed.lock().expect("a lock"), 1);
    let late = two.ack.settle(Outcome::Done).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Closed);
}

#[tokio::test(start_paused = true)]
async fn close_gives_back_at_once_what_nobody_has_seen() {
    let script = Script::new([Step::Give(vec![1, 2, 3])]);
    let mut subscription = events(&script, FlowControl::new(10, 10));
    next(&mut subscription).await.ack.settle_later(Outcome::Done);
    let began = Instant::now();
    subscription.close().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(script.outcomes(), [(1, Outcome::Done), (2, Outcome::Retry), (3, Outcome::Retry)]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_subscription_closes_in_the_background() {
    let script = Script::new([Step::Give(vec![1, 2])]);
    let mut subscription = events(&script, FlowControl::new(10, 10));
    let held = next(&mut subscription).await;
    drop(subscription);
    drop(held);
    settle_down().await;
    let mut outcomes = script.outcomes();
    outcomes.sort_by_key(|(n, _)| *n);
    assert_eq!(outcomes, [(1, Outcome::Retry), (2, Outcome::Retry)]);
    assert_eq!(*script.closed.lock().expect("a lock"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_can_be_interrupted_is_not_dropped() {
    let script = Arc::new(Script { interruptible: true, ..Script::default() });
    let subscription = events(&script, FlowControl::new(10, 10));
    settle_down().await;
    subscription.close().await.unwrap();
    assert_eq!(script.outcomes(), [(77, Outcome::Retry)], "what it had on the way is given back");
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_cannot_be_interrupted_is_dropped() {
    let script = Script::new([]);
    let subscription = events(&script, FlowControl::new(10, 10));
    settle_down().await;
    let began = Instant::now();
    subscription.close().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(script.outcomes(), []);
}

#[tokio::test(start_paused = true)]
async fn it_asks_for_no_more_than_there_is_room_for() {
    let script = Script::new([Step::Give((0..100).collect())]);
    let mut subscription = events(&script, FlowControl::new(4, 10));
    settle_down().await;
    assert_eq!(script.asked(), [4, 4, 2], "in batches, until ten are in flight");
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(next(&mut subscription).await);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(script.asked().len(), 3, "with ten in flight it does not ask");
    for delivery in held.drain(..3) {
        delivery.ack.settle_later(Outcome::Done);
    }
    settle_down().await;
    assert_eq!(script.asked()[3..], [3]);
}

#[tokio::test(start_paused = true)]
async fn a_small_fetch_waits_a_moment_for_more_room() {
    let script = Script::new([Step::Give((0..100).collect())]);
    let mut subscription = events(&script, FlowControl::new(8, 16));
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(next(&mut subscription).await);
    }
    assert_eq!(script.asked(), [8, 8]);
    held.pop().unwrap().ack.settle_later(Outcome::Done);
    settle_down().await;
    assert_eq!(script.asked().len(), 2, "one place is not worth a round trip");
    for _ in 0..3 {
        held.pop().unwrap().ack.settle_later(Outcome::Done);
    }
    settle_down().await;
    assert_eq!(script.asked()[2..], [4], "a quarter of all places is");
    // What never becomes more is asked for all the same, a little later.
    held.pop().unwrap().ack.settle_later(Outcome::Done);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(script.asked()[3..], [1]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_delivery_comes_again_after_growing_waits() {
    let script = Script::new([Step::Give(vec![1])]);
    let mut subscription = events(&script, FlowControl::new(1, 1));
    drop(next(&mut subscription).await);
    for longest in [50, 100, 200, 400] {
        let began = Instant::now();
        let again = next(&mut subscription).await;
        let waited = began.elapsed().as_millis();
        assert!(waited >= longest / 2 - 1 && waited <= longest + 5, "{waited} of {longest}");
        again.ack.settle(Outcome::Retry).await.expect("taken");
    }
    assert_eq!(script.outcomes(), [], "the broker is not asked to give it again");
    next(&mut subscription).await.ack.settle(Outcome::Done).await.unwrap();
    assert_eq!(script.outcomes(), [(1, Outcome::Done)]);
    assert_eq!(script.asked().first(), Some(&1));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_waits_to_come_again_is_given_back_on_close() {
    let script = Script::new([Step::Give(vec![1])]);
    let mut subscription = events(&script, FlowControl::new(1, 1));
    drop(next(&mut subscription).await);
    settle_down().await;
    let began = Instant::now();
    subscription.close().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(script.outcomes(), [(1, Outcome::Retry)]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_handed_out_is_over_whatever_becomes_of_it() {
    let script = Script::new([Step::Give(vec![1, 2, 3, 4])]);
    let mut subscription = calls(&script, FlowControl::new(10, 10));
    drop(next(&mut subscription).await);
    next(&mut subscription).await.ack.settle(Outcome::Retry).await.unwrap();
    let held = next(&mut subscription).await;
    let close = tokio::spawn(subscription.close());
    settle_down().await;
    drop(held);
    close.await.unwrap().unwrap();
    let mut outcomes = script.outcomes();
    outcomes.sort_by_key(|(n, _)| *n);
    let done = |n| (n, Outcome::Done);
    assert_eq!(
        outcomes,
        [done(1), done(2), done(3), (4, Outcome::Retry)],
        "only the unseen goes back"
    );
}

#[tokio::test(start_paused = true)]
async fn after_stop_what_was_taken_is_still_handed_out() {
    let script = Script::new([Step::Give(vec![1, 2])]);
    let mut subscription = events(&script, FlowControl::new(10, 10));
    settle_down().await;
    subscription.stop();
    settle_down().await;
    script.then(Step::Give(vec![3]));
    for n in [1, 2] {
        let delivery = next(&mut subscription).await;
        assert_eq!(*delivery.message, n);
        delivery.ack.settle(Outcome::Done).await.unwrap();
    }
    assert!(subscription.next().await.is_none());
    subscription.close().await.unwrap();
    assert_eq!(*script.closed.lock().expect("a lock"), 1);
}

#[tokio::test(start_paused = true)]
async fn an_empty_fetch_is_a_sign_of_life() {
    let script = Script::new([Step::Give(vec![]), Step::Give(vec![]), Step::Give(vec![1])]);
    let mut subscription = events(&script, FlowControl::new(1, 1));
    assert_eq!(*next(&mut subscription).await.message, 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_taken_ahead_begins_with_a_probe_and_follows_the_handlers() {
    let script = Script::new([Step::Give((0..2000).collect())]);
    let mut subscription = events(&script, FlowControl::new(256, 512).for_handlers(4));
    settle_down().await;
    assert_eq!(script.asked()[0], 1, "a probe");
    let mut held = VecDeque::new();
    for _ in 0..100 {
        held.push_back(next(&mut subscription).await);
        if held.len() == 4 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            held.drain(..).for_each(|delivery| delivery.ack.settle_later(Outcome::Done));
        }
    }
    settle_down().await;
    let window = *script.windows.lock().expect("a lock").last().unwrap();
    assert!((30..=45).contains(&window), "40 events a second, not {window}");
}

#[tokio::test(start_paused = true)]
async fn a_redelivered_message_is_held_alone_and_begins_at_the_source() {
    let script = Script::new([Step::Give(vec![REDELIVERED, REDELIVERED + 1, 3, 4, 5])]);
    let mut subscription = events(&script, FlowControl::new(256, 512).for_handlers(8));
    for n in [REDELIVERED, REDELIVERED + 1] {
        let delivery = next(&mut subscription).await;
        settle_down().await;
        assert!(delivery.is_suspect());
        assert!(soon_empty(&mut subscription).await, "nothing is taken beside {n}");
        let delivery = delivery.begin().await.expect("may begin");
        assert_eq!(script.begun.lock().expect("a lock").last(), Some(&n));
        delivery.ack.settle(Outcome::Done).await.unwrap();
    }
    for n in [3, 4, 5] {
        let delivery = next(&mut subscription).await;
        assert!(!delivery.is_suspect());
        assert_eq!(*delivery.begin().await.expect("may begin").message, n);
    }
    assert_eq!(script.begun.lock().expect("a lock").len(), 2, "others cost the broker nothing");
}

/// Whether nothing is delivered although all that can go on has.
async fn soon_empty(subscription: &mut Subscription<u32>) -> bool {
    tokio::time::timeout(Duration::from_secs(1), subscription.next()).await.is_err()
}

#[tokio::test(start_paused = true)]
async fn a_beginning_that_fails_has_the_message_redelivered() {
    let script = Script::new([Step::Give(vec![REDELIVERED])]);
    let unavailable = Err(Error::new(ErrorKind::Unavailable, "away"));
    script.begins.lock().expect("a lock").push_back(unavailable);
    let mut subscription = events(&script, FlowControl::new(8, 8));
    assert!(next(&mut subscription).await.begin().await.is_none());
    let again = next(&mut subscription).await.begin().await.expect("the broker is back");
    again.ack.settle(Outcome::Done).await.unwrap();
    assert_eq!(script.outcomes(), [(REDELIVERED, Outcome::Done)]);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_dropped_while_it_begins_is_not_lost() {
    let script = Script::new([Step::Give(vec![REDELIVERED])]);
    let mut subscription = events(&script, FlowControl::new(8, 8));
    let delivery = next(&mut subscription).await;
    let begin = tokio::spawn(delivery.begin());
    tokio::task::yield_now().await;
    begin.abort();
    let again = next(&mut subscription).await.begin().await.expect("may begin");
    again.ack.settle(Outcome::Done).await.unwrap();
    assert_eq!(script.begun.lock().expect("a lock").len(), 1, "counted once");
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_a_session_that_is_gone_does_not_begin() {
    let script = Script::new([Step::Give(vec![1, 2])]);
    let mut subscription = events(&script, FlowControl::new(8, 8));
    let one = next(&mut subscription).await.begin().await.expect("may begin");
    let two = next(&mut subscription).await;
    assert_eq!(script.session.at_work(), 1);
    script.session.revoke();
    assert!(two.begin().await.is_none());
    settle_down().await;
    assert_eq!(script.outcomes(), [], "left to whoever has it now");
    assert_eq!(script.session.at_work(), 1);
    one.ack.settle(Outcome::Done).await.unwrap();
    settle_down().await;
    assert_eq!(script.session.at_work(), 0, "the broker knows");
}

#[tokio::test(start_paused = true)]
async fn what_waits_when_its_session_ends_does_not_go_on() {
    let script = Script::new([Step::Give(vec![1, 2])]);
    let mut subscription = events(&script, FlowControl::new(8, 8));
    let mut one = next(&mut subscription).await.begin().await.expect("may begin");
    let mut two = next(&mut subscription).await.begin().await.expect("may begin");
    one.ack.hold_back();
    assert_eq!(script.session.at_work(), 1, "what waits is not waited for");
    assert!(one.ack.go_on() && two.ack.go_on());
    assert_eq!(script.session.at_work(), 2);
    one.ack.hold_back();
    script.session.revoke();
    assert!(!one.ack.go_on(), "left to whoever has it now");
    assert!(!one.ack.go_on());
    assert!(two.ack.go_on(), "it was at work when the session ended");
    drop(one);
    settle_down().await;
    assert_eq!(script.outcomes(), []);
    two.ack.settle(Outcome::Done).await.unwrap();
    settle_down().await;
    assert_eq!(script.session.at_work(), 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_fill_the_window_too() {
    let script = Script::new([Step::Give(vec![900; 20])]);
    let mut flow = FlowControl::new(4, 100);
    flow.max_bytes = 3000;
    let mut subscription = events(&script, flow);
    let mut held = vec![next(&mut subscription).await];
    while let Ok(Some(Ok(delivery))) =
        tokio::time::timeout(Duration::from_secs(1), subscription.next()).await
    {
        held.push(delivery);
    }
    assert_eq!(held.len(), 4, "asked for before their size was known, and no more");
    held.truncate(1);
    settle_down().await;
}

#[tokio::test(start_paused = true)]
async fn another_is_taken_in_the_place_of_one_that_waits() {
    let script = Script::new([Step::Give(vec![1, 2, 3, 4])]);
    let mut subscription = events(&script, FlowControl::new(4, 3).for_handlers(1));
    let mut one = next(&mut subscription).await;
    assert!(soon_empty(&mut subscription).await);
    one.ack.hold_back();
    let mut two = next(&mut subscription).await;
    assert!(soon_empty(&mut subscription).await);
    two.ack.hold_back();
    let mut three = next(&mut subscription).await;
    three.ack.hold_back();
    assert!(soon_empty(&mut subscription).await, "never more than may be in flight");
    assert!(one.ack.go_on());
    one.ack.settle(Outcome::Done).await.unwrap();
    assert_eq!(*next(&mut subscription).await.message, 4);
}

#[tokio::test(start_paused = true)]
async fn what_another_consumer_has_by_now_does_not_begin() {
    let script = Script::new([Step::Give(vec![REDELIVERED, 1])]);
    script.begins.lock().expect("a lock").push_back(Ok(false));
    let mut subscription = events(&script, FlowControl::new(8, 8));
    assert!(next(&mut subscription).await.begin().await.is_none());
    let next = next(&mut subscription).await;
    assert_eq!(*next.message, 1, "and it does not come here again");
}
