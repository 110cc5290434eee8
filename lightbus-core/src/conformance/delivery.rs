//! Events: how often they come, and to whom they go back.

use std::time::Duration;

use futures_util::FutureExt;

use super::{
    Harness,
    event::settle_all,
    kit::{
        Bus, Numbered, assert_numbers, done, eventually, flow, next, nothing, nothing_within, ok,
        serving, take, within,
    },
};
use crate::{
    Name, Outcome, Rejection,
    transport::{DeadLetter, GroupSpec, Lag, ListenSpec},
};

/// A delivery that is dropped is redelivered, the same, until it is settled.
pub async fn a_dropped_delivery_comes_again(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut events = process.listen(bus.listener(&api, "mail")).await;
    let sent = bus.event(&api, 1);
    process.send(std::slice::from_ref(&sent)).await;
    let first = next(&mut events).await;
    let native_id = first.message.native_id.clone();
    drop(first);
    for outcome in [Outcome::Retry, Outcome::Done] {
        let again = next(&mut events).await;
        assert_eq!(again.message.id, sent.id);
        assert_eq!(again.message.native_id, native_id, "the broker's name for it");
        assert_eq!(again.message.fields, sent.fields);
        ok("settling", again.ack.settle(outcome)).await;
    }
    nothing("it has been settled", &mut events).await;
}

/// What is settled as done is never redelivered: not to this process, nor the next, nor when the time
/// for dead processes is over.
pub async fn a_done_delivery_never_comes_again(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut events = process.listen(bus.listener(&api, "mail")).await;
    process.send(&bus.events(&api, 0..10)).await;
    assert_numbers(harness, take(&mut events, 10).await, 0..10);
    ok("closing", events.close()).await;
    never_again(&bus, harness, &api).await;
}

/// A new process of the group gets what is new, and nothing else.
async fn never_again(bus: &Bus<'_>, harness: &dyn Harness, api: &Name) {
    let process = bus.process().await;
    let mut events = process.listen(bus.listener(api, "mail")).await;
    process.send(&[bus.event(api, 1000)]).await;
    assert_numbers(harness, take(&mut events, 1).await, [1000]);
    let long = harness.taken_over_after().mul_f64(1.5) + Duration::from_millis(100);
    nothing_within("all have been settled", &mut events, long).await;
}

/// A rejected delivery is never redelivered, and is found among the dead letters.
pub async fn a_rejected_delivery_never_comes_again(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let spec = bus.listener(&api, "mail");
    let group = spec.group.clone();
    let mut events = process.listen(spec).await;
    process.send(&bus.events(&api, 0..4)).await;
    let mut deliveries = Vec::new();
    for _ in 0..4 {
        deliveries.push(next(&mut events).await);
    }
    for delivery in deliveries {
        let n = delivery.message.number();
        let outcome = match n % 2 {
            0 => Outcome::Done,
            _ => Outcome::Reject(Rejection::new(format!("Grund {n}: größer")).after(3)),
        };
        ok("settling", delivery.ack.settle(outcome)).await;
    }
    if harness.capabilities().dead_letters {
        let letters = dead_letters(&process, &group, 2).await;
        let mut numbers: Vec<_> = letters.iter().map(|letter| letter.event.number()).collect();
        let has = harness.capabilities();
        if has.ordered || has.ordered_by_key {
            assert_eq!(numbers, [1, 3], "oldest first");
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 3]);
        for letter in &letters {
            let n = letter.event.number();
            let sent = &bus.events(&api, n..n + 1)[0];
            assert_eq!(letter.reason, format!("Grund {n}: größer"));
            assert_eq!(letter.group, group);
            assert_eq!(letter.event.id, sent.id);
            assert_eq!((&letter.event.api, &letter.event.event), (&sent.api, &sent.event));
            assert_eq!(letter.event.fields, sent.fields);
            assert_eq!(letter.attempts, 3, "as often as the listener says that it tried");
        }
        let letters = process.dead_letters();
        let one = ok("reading dead letters", letters.list(&group, None, 1)).await;
        assert_eq!(one.len(), 1, "no more than asked for");
        let unknown = GroupSpec::new(group.service, "unknown");
        let none = letters.list(&unknown, None, 10);
        assert!(ok("reading the dead letters of an unknown group", none).await.is_empty());
    }
    nothing("all have been settled", &mut events).await;
    ok("closing", events.close()).await;
    never_again(&bus, harness, &api).await;
}

async fn dead_letters(
    process: &super::kit::Process,
    group: &GroupSpec,
    count: usize,
) -> Vec<DeadLetter> {
    eventually("the dead letters are there", async || {
        let letters = process.dead_letters().list(group, None, 100);
        let letters = ok("reading dead letters", letters).await;
        (letters.len() == count).then_some(letters)
    })
    .await
}

/// What cannot be read is rejected, and the listener goes on.
pub async fn a_malformed_event_is_set_aside(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let spec = bus.listener(&api, "mail");
    let group = spec.group.clone();
    let mut events = process.listen(spec).await;
    process.send(&bus.events(&api, 1..2)).await;
    let malformed = harness.malformed_event(&api, "happened").await;
    if malformed.or_say("putting a malformed event").is_none() {
        return;
    }
    process.send(&bus.events(&api, 2..3)).await;
    assert_numbers(harness, take(&mut events, 2).await, [1, 2]);
    nothing("what cannot be read is not delivered", &mut events).await;
    if harness.capabilities().dead_letters {
        dead_letters(&process, &group, 1).await;
    }
    ok("closing", events.close()).await;
    never_again(&bus, harness, &api).await;
}

/// No more is handed out than may be in flight; settling makes room.
pub async fn no_more_in_flight_than_asked(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let spec = ListenSpec { flow: flow(10, 3), ..bus.listener(&api, "mail") };
    let (group, asked) = (spec.group.clone(), spec.events.clone());
    let mut events = process.listen(spec).await;
    process.send(&bus.events(&api, 0..10)).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut events).await);
    }
    nothing("three are in flight", &mut events).await;
    // Also by the broker's count.
    let next_ones = if harness.shares_a_key() {
        let other = bus.process().await;
        let mut others = other.listen(bus.listener(&api, "mail")).await;
        let mut numbers = take(&mut others, 7).await;
        numbers.extend(held.iter().map(|delivery| delivery.message.number()));
        numbers.sort_unstable();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>(), "what is not in flight goes to others");
        ok("closing", others.close()).await;
        process.send(&bus.events(&api, 10..12)).await;
        [10, 11]
    } else {
        eventually("what is not in flight waits at the broker", async || {
            let found = ok("asking for the lag", process.event.lag(&group, &asked)).await;
            (found == Lag { waiting: 7, pending: 3 }).then_some(())
        })
        .await;
        [3, 4]
    };
    nothing("three are still in flight", &mut events).await;
    done(held.pop().expect("a delivery")).await;
    assert_numbers(harness, take(&mut events, 1).await, [next_ones[0]]);
    settle_all(held, Outcome::Done).await;
    assert_numbers(harness, take(&mut events, 1).await, [next_ones[1]]);
}

/// Waiting for the next delivery may be given up at any time: nothing is lost, nothing comes twice.
pub async fn a_cancelled_next_loses_nothing(harness: &dyn Harness) {
    const EVENTS: usize = 200;
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let spec = ListenSpec { flow: flow(4, 8), ..bus.listener(&api, "mail") };
    let mut events = process.listen(spec).await;
    let send = async {
        for n in 0..EVENTS {
            process.send(&bus.events(&api, n..n + 1)).await;
        }
    };
    let mut numbers = Vec::new();
    let receive = async {
        while numbers.len() < EVENTS {
            // Asked once, and given up unless it is there.
            match events.next().now_or_never() {
                Some(delivery) => {
                    let delivery = delivery.expect("not the end").expect("a delivery");
                    numbers.push(delivery.message.number());
                    delivery.ack.settle_later(Outcome::Done);
                }
                None => tokio::task::yield_now().await,
            }
        }
    };
    within("receiving all", async { tokio::join!(send, receive) }).await;
    assert_numbers(harness, numbers, 0..EVENTS);
    nothing("each came once", &mut events).await;
}

/// What a process had fetched and no handler has seen goes back when it closes, in its order.
pub async fn close_gives_back_what_nobody_has_seen(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let spec = ListenSpec { flow: flow(5, 5), ..bus.listener(&api, "mail") };
    let mut events = process.listen(spec).await;
    process.send(&bus.events(&api, 0..5)).await;
    // With the first, others have been fetched.
    assert_numbers(harness, take(&mut events, 1).await, [0]);
    ok("closing", events.close()).await;

    let other = bus.process().await;
    let mut events = other.listen(bus.listener(&api, "mail")).await;
    assert_numbers(harness, take(&mut events, 4).await, 1..5);
    nothing("each came once", &mut events).await;
}

/// Closing lets those who hold a delivery finish, and takes their word.
pub async fn close_waits_for_what_is_held(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut events = process.listen(bus.listener(&api, "mail")).await;
    process.send(&bus.events(&api, 0..2)).await;
    let (one, two) = (next(&mut events).await, next(&mut events).await);
    let mut close = Box::pin(events.close());
    assert!((&mut close).now_or_never().is_none(), "deliveries are held");
    tokio::join!(done(one), done(two));
    ok("closing", close).await;
    never_again(&bus, harness, &api).await;
}

/// A subscription that is dropped releases what is not settled.
pub async fn a_dropped_subscription_gives_back(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let spec = ListenSpec { flow: flow(5, 5), ..bus.listener(&api, "mail") };
    let mut events = process.listen(spec).await;
    process.send(&bus.events(&api, 0..8)).await;
    let held = next(&mut events).await;
    drop(events);
    drop(held);
    let other = bus.process().await;
    let mut events = other.listen(bus.listener(&api, "mail")).await;
    let mut numbers = take(&mut events, 8).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (0..8).collect::<Vec<_>>());
    nothing("each came once", &mut events).await;
}

/// Closing a subscription that waits for the broker returns at once, and ends what it runs.
pub async fn close_while_blocked_returns(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut events = process.listen(bus.listener(&api, "mail")).await;
    let mut calls = process.serve(serving(&api)).await;
    // So both wait for the broker.
    nothing("nothing was sent", &mut events).await;
    nothing("nothing was called", &mut calls).await;
    let began = tokio::time::Instant::now();
    let (events, calls) = tokio::join!(events.close(), calls.close());
    events.expect("the listener closes");
    calls.expect("the worker closes");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "closing took {took:?}, with nothing to wait for");
}
