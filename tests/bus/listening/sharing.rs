//! Processes that listen under one name share a backlog, also those that join late.

use std::time::Duration;

use lightbus::prelude::*;

use lightbus_tests::{Place, eventually, on_every_transport, soon};

use super::contracts::{Notes, Ordered, order, register};

on_every_transport!(a_process_that_joins_late_gets_its_share_of_the_backlog);

async fn watch(bus: &Bus, notes: &Notes, takes: Duration) {
    let noted = notes.clone();
    bus.listen("watch", move |event: Ordered| {
        let noted = noted.clone();
        async move {
            tokio::time::sleep(takes).await;
            noted.add(event.number.to_string());
            Ok(())
        }
    })
    .await
    .unwrap();
}

async fn a_process_that_joins_late_gets_its_share_of_the_backlog(place: Place) {
    const EVENTS: u32 = 300;
    if !place.shares_a_backlog() {
        return;
    }
    // A group of Kafka takes seconds to let a process in.
    let takes = Duration::from_millis(if place.orders_without_keys() { 15 } else { 60 });
    let first = place.bus("shop").await;
    register(&first).await;
    let (here, there) = (Notes::default(), Notes::default());
    watch(&first, &here, takes).await;
    for number in 0..EVENTS {
        order(&first, &format!("customer {number}"), number).await;
    }
    eventually("it is at work", async || here.all().len() >= 10).await;
    let second = place.bus("shop").await;
    watch(&second, &there, takes).await;
    let before = here.all().len();
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
