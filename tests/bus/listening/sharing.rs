//! Processes that listen under one name share a backlog, also those that join late.

use std::{sync::Arc, time::Duration};

use lightbus::prelude::*;

use lightbus_tests::{Place, eventually, on_every_transport, soon};
use tokio::sync::Semaphore;

use super::contracts::{Notes, Ordered, order, register};

on_every_transport!(
    a_process_that_joins_late_gets_its_share_of_the_backlog,
    three_processes_share_what_waits,
    no_more_is_taken_than_the_limit,
);

/// After ten events, handlers wait until the gate is closed for good: others have joined by then.
fn gate(place: &Place) -> Arc<Semaphore> {
    let gate = Arc::new(Semaphore::new(0));
    if !place.orders_without_keys() {
        // A group of Kafka takes seconds to let a process in, and the events take longer.
        gate.close();
    }
    gate
}

async fn watch(bus: &Bus, notes: &Notes, takes: Duration, gate: &Arc<Semaphore>) {
    let (noted, gate) = (notes.clone(), Arc::clone(gate));
    bus.listen("watch", move |event: Ordered| {
        let (noted, gate) = (noted.clone(), Arc::clone(&gate));
        async move {
            tokio::time::sleep(takes).await;
            if noted.all().len() >= 10 {
                let _ = gate.acquire().await;
            }
            noted.add(event.number.to_string());
            Ok(())
        }
    })
    .await
    .unwrap();
}

async fn a_process_that_joins_late_gets_its_share_of_the_backlog(place: Place) {
    const EVENTS: u32 = 300;
    let takes = Duration::from_millis(if place.orders_without_keys() { 15 } else { 60 });
    let first = place.bus("shop").await;
    register(&first).await;
    let (here, there) = (Notes::default(), Notes::default());
    let gate = gate(&place);
    watch(&first, &here, takes, &gate).await;
    for number in 0..EVENTS {
        order(&first, &format!("customer {number}"), number).await;
    }
    eventually("it is at work", async || here.all().len() >= 10).await;
    let second = place.bus("shop").await;
    watch(&second, &there, takes, &gate).await;
    let before = here.all().len();
    gate.close();
    let all = |here: &Notes, there: &Notes| here.all().len() + there.all().len();
    while all(&here, &there) < EVENTS as usize {
        let count = all(&here, &there);
        eventually("they go on", async || all(&here, &there) > count).await;
    }
    let (here, there) = (here.all().len() - before, there.all().len());
    let share = there as f64 / (here + there) as f64;
    assert!((0.33..0.67).contains(&share), "{here} and {there} since it was there");
    soon("closing", first.close()).await.unwrap();
    soon("closing", second.close()).await.unwrap();
}

async fn three_processes_share_what_waits(place: Place) {
    const EVENTS: u32 = 240;
    let takes = Duration::from_millis(if place.orders_without_keys() { 20 } else { 80 });
    let first = place.bus("shop").await;
    register(&first).await;
    let notes = [Notes::default(), Notes::default(), Notes::default()];
    // The group exists, so that it has what is fired now.
    let gate = gate(&place);
    watch(&first, &notes[0], takes, &gate).await;
    for number in 0..EVENTS {
        order(&first, &format!("customer {number}"), number).await;
    }
    let (second, third) = (place.bus("shop").await, place.bus("shop").await);
    watch(&second, &notes[1], takes, &gate).await;
    watch(&third, &notes[2], takes, &gate).await;
    let before = notes.each_ref().map(|notes| notes.all().len());
    gate.close();
    let all = || notes.iter().map(|notes| notes.all().len()).sum::<usize>();
    while all() < EVENTS as usize {
        let count = all();
        eventually("they go on", async || all() > count).await;
    }
    let mut numbers: Vec<u64> = notes.iter().flat_map(Notes::sorted).collect();
    numbers.sort_unstable();
    if !place.orders_without_keys() {
        // A partition that moves while its event is handled brings that event to both.
        numbers.dedup();
    }
    assert_eq!(numbers, (0..EVENTS.into()).collect::<Vec<_>>(), "each was handled once");
    let shares: Vec<usize> =
        notes.iter().zip(before).map(|(notes, before)| notes.all().len() - before).collect();
    let fair = shares.iter().sum::<usize>() / 3;
    assert!(shares.iter().all(|share| *share * 2 >= fair), "{shares:?} since all were there");
    for bus in [first, second, third] {
        soon("closing", bus.close()).await.unwrap();
    }
}

/// A process whose handlers stand still keeps no more than its limit.
async fn no_more_is_taken_than_the_limit(place: Place) {
    // On Kafka a partition belongs to one process, with all that waits in it.
    if !place.orders_without_keys() {
        return;
    }
    const EVENTS: u32 = 60;
    const LIMIT: usize = 4;
    let (first, second) = (place.bus("shop").await, place.bus("shop").await);
    register(&first).await;
    let (here, there) = (Notes::default(), Notes::default());
    let gate = Arc::new(Semaphore::new(0));
    let (noted, closed) = (here.clone(), Arc::clone(&gate));
    let slow = first.listen("watch", move |event: Ordered| {
        let (noted, closed) = (noted.clone(), Arc::clone(&closed));
        async move {
            let _open = closed.acquire().await;
            noted.add(event.number.to_string());
            Ok(())
        }
    });
    slow.concurrency(2).prefetch(LIMIT).await.unwrap();
    for number in 0..EVENTS {
        order(&first, &format!("customer {number}"), number).await;
    }
    let open = Arc::new(Semaphore::new(0));
    open.close();
    watch(&second, &there, Duration::ZERO, &open).await;
    eventually("the others are handled", async || there.all().len() >= EVENTS as usize - LIMIT)
        .await;
    gate.add_permits(EVENTS as usize);
    let all = || here.all().len() + there.all().len();
    eventually("all are handled", async || all() == EVENTS as usize).await;
    soon("closing", first.close()).await.unwrap();
    soon("closing", second.close()).await.unwrap();
}

/// RabbitMQ's `consumer_timeout` runs for what was only taken, too.
#[cfg(feature = "amqp")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_handlers_outlive_the_consumer_timeout() {
    const EVENTS: u32 = 14;
    let Some(broker) = lightbus_test_brokers::RabbitServer::start().await else { return };
    for (name, value) in [("consumer_timeout", 3000), ("channel_tick_interval", 500)] {
        broker.ctl(&["eval", &format!("application:set_env(rabbit, {name}, {value}).")]).await;
    }
    let place = Place::Amqp { url: broker.url(), prefix: String::new() };
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    let open = Arc::new(Semaphore::new(0));
    open.close();
    watch(&bus, &notes, Duration::from_millis(600), &open).await;
    for number in 0..EVENTS {
        order(&bus, "ann", number).await;
    }
    eventually("all are handled", async || notes.all().len() >= EVENTS as usize).await;
    assert_eq!(notes.sorted(), (0..EVENTS.into()).collect::<Vec<_>>(), "each was handled once");
    let letters = bus.admin().dead_letters("shop", "watch", 10).await.unwrap();
    assert!(letters.is_empty(), "{letters:?}");
    soon("closing", bus.close()).await.unwrap();
}
