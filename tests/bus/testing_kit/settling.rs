//! Waiting until nothing is in flight.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{ErrorKind, RetryPolicy, prelude::*, testing::TestBus};

use super::contracts::*;

fn counter() -> (Arc<AtomicUsize>, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    (Arc::clone(&count), count)
}

#[tokio::test]
async fn what_handlers_fire_and_call_in_turn_is_waited_for() {
    let test = TestBus::start().await.unwrap();
    start_billing(&test).await.unwrap();
    let stats = test.process("stats").await.unwrap();
    let (count, paid) = counter();
    stats
        .listen("count", move |_: Paid| {
            let count = Arc::clone(&count);
            async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .await
        .unwrap();
    test.mock::<TillClient>().any_call(|till| till.pay(0)).answers_later(async |_| {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(3)
    });
    for _ in 0..20 {
        test.fire_from_outside(sally()).await.unwrap();
    }
    test.wait_until_idle().await.unwrap();
    assert_eq!(paid.load(Ordering::SeqCst), 20);
    test.assert_fired::<Paid>(20);
}

#[tokio::test]
async fn every_try_of_a_failing_handler_is_waited_for() {
    let test = TestBus::start().await.unwrap();
    let wait = Duration::from_secs(if test.is_in_memory() { 3600 } else { 0 });
    let policy = RetryPolicy::attempts(4).backoff(wait, wait);
    let (count, tries) = counter();
    test.listen("watch", move |_: UserRegistered| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Err(HandlerError::new("cannot")) }
    })
    .on_error(OnError::Retry(policy))
    .await
    .unwrap();
    let real = std::time::Instant::now();
    test.fire_from_outside(sally()).await.unwrap();
    test.wait_until_idle_within(Duration::from_secs(24 * 3600)).await.unwrap();
    assert_eq!(tries.load(Ordering::SeqCst), 4);
    assert_eq!(test.admin().dead_letters("test", "watch", 10).await.unwrap().len(), 1);
    assert!(real.elapsed() < Duration::from_secs(2), "hours took {:?}", real.elapsed());
}

#[tokio::test]
async fn a_dead_letter_that_is_given_back_is_waited_for() {
    let test = TestBus::start().await.unwrap();
    let (count, tries) = counter();
    test.listen("watch", move |_: UserRegistered| {
        let first = count.fetch_add(1, Ordering::SeqCst) == 0;
        async move { if first { Err(HandlerError::new("cannot")) } else { Ok(()) } }
    })
    .on_error(OnError::Retry(RetryPolicy::attempts(1)))
    .await
    .unwrap();
    test.fire_from_outside(sally()).await.unwrap();
    test.wait_until_idle().await.unwrap();
    let letters = test.admin().dead_letters("test", "watch", 10).await.unwrap();
    assert_eq!(test.admin().requeue_dead_letters("test", "watch", &letters).await.unwrap(), 1);
    test.wait_until_idle().await.unwrap();
    assert_eq!(tries.load(Ordering::SeqCst), 2);
    assert!(test.admin().dead_letters("test", "watch", 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn calls_of_other_tasks_and_their_workers_are_waited_for() {
    struct Slow(Arc<AtomicUsize>);
    impl Auth for Slow {
        async fn check_password(&self, _: String, _: String) -> bool {
            false
        }
        async fn slow(&self) -> bool {
            tokio::time::sleep(Duration::from_millis(50)).await;
            self.0.fetch_add(1, Ordering::SeqCst);
            true
        }
    }
    let test = TestBus::start().await.unwrap();
    let (count, ended) = counter();
    test.serve(AuthApi(Slow(count))).finish_late().await.unwrap();
    let auth = AuthClient::new(&test);
    // One is given up early: its procedure runs on.
    let given_up = auth.slow().timeout(Duration::from_millis(25)).await.unwrap_err();
    assert_eq!(given_up.kind(), ErrorKind::Timeout);
    let call = tokio::spawn(async move { auth.slow().await });
    tokio::task::yield_now().await;
    test.wait_until_idle().await.unwrap();
    assert_eq!(ended.load(Ordering::SeqCst), 2);
    assert!(call.is_finished() && call.await.unwrap().unwrap());
}

#[tokio::test]
async fn nothing_in_flight_is_settled_at_once() {
    let test = TestBus::start().await.unwrap();
    test.wait_until_idle().await.unwrap();
    test.listen("watch", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    test.register(TillClient::contract()).await.unwrap();
    // Nobody listens to this one.
    test.fire(Paid { amount: 1 }).await.unwrap();
    test.wait_until_idle().await.unwrap();
}

#[tokio::test]
async fn a_limit_says_what_is_still_in_flight() {
    let test = TestBus::start().await.unwrap();
    test.listen("stuck", |_: UserRegistered| std::future::pending()).await.unwrap();
    test.mock::<AuthClient>().any_call(|auth| auth.slow()).never_answers();
    test.fire_from_outside(sally()).await.unwrap();
    let call = AuthClient::new(&test).slow().timeout(Duration::from_secs(600));
    let call = tokio::spawn(call.into_future());
    let limit = Duration::from_millis(if test.is_in_memory() { 60_000 } else { 300 });
    let error = test.wait_until_idle_within(limit).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = error.to_string();
    for part in [
        "waiting until the test is idle: there is still work in flight",
        "calls that wait for their results: auth.slow",
        "events for the listener test-stuck: auth.user_registered ",
        "(delivered 1 times, not acknowledged)",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    call.abort();
}

#[tokio::test]
async fn a_listener_that_begins_with_the_past_is_waited_for() {
    let test = TestBus::start().await.unwrap();
    for _ in 0..10 {
        test.fire_from_outside(sally()).await.unwrap();
    }
    let (count, handled) = counter();
    test.listen("late", move |_: UserRegistered| {
        let count = Arc::clone(&count);
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .start(Start::Earliest)
    .await
    .unwrap();
    test.wait_until_idle().await.unwrap();
    assert_eq!(handled.load(Ordering::SeqCst), 10);
}

#[tokio::test]
async fn a_listener_that_is_closed_holds_nobody_up_and_goes_on_later() {
    let test = TestBus::start().await.unwrap();
    let mail = test.process("mail").await.unwrap();
    mail.listen("watch", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    mail.close().await.unwrap();
    test.fire_from_outside(sally()).await.unwrap();
    test.wait_until_idle().await.unwrap();
    let mail = test.process("mail").await.unwrap();
    let (count, handled) = counter();
    mail.listen("watch", move |_: UserRegistered| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    })
    .await
    .unwrap();
    test.wait_until_idle().await.unwrap();
    assert_eq!(handled.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_time_runs_settling_waits_as_well() {
    let test = TestBus::start().await.unwrap();
    start_billing(&test).await.unwrap();
    let stats = test.process("stats").await.unwrap();
    let (count, paid) = counter();
    stats
        .listen("count", move |_: Paid| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        })
        .concurrency(4)
        .await
        .unwrap();
    test.mock::<TillClient>().any_call(|till| till.pay(0)).returns(3);
    for round in 1..=10 {
        for _ in 0..10 {
            test.fire_from_outside(sally()).await.unwrap();
        }
        test.wait_until_idle().await.unwrap();
        assert_eq!(paid.load(Ordering::SeqCst), 10 * round);
    }
}
