//! Listeners that are paused, resumed and stopped while their process runs.

use lightbus::{ErrorKind, health::Condition, prelude::*};

use lightbus_tests::{Place, eventually, on_every_transport, soon};

use super::contracts::{Notes, Ordered, order, register};

on_every_transport!(
    a_paused_listener_takes_nothing_until_it_is_resumed,
    a_stopped_listener_ends_and_its_name_is_free_again,
    a_listener_that_is_not_there_cannot_be_paused,
);

async fn watch(bus: &Bus, name: &str, notes: &Notes) {
    let noted = notes.clone();
    bus.listen(name, move |event: Ordered| {
        noted.add(event.number.to_string());
        async { Ok(()) }
    })
    .await
    .unwrap();
}

async fn a_paused_listener_takes_nothing_until_it_is_resumed(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (notes, seen) = (Notes::default(), Notes::default());
    watch(&bus, "watch", &notes).await;
    watch(&bus, "see", &seen).await;
    order(&bus, "anna", 0).await;
    eventually("it listens", async || notes.all().len() == 1).await;
    bus.pause("watch").unwrap();
    bus.pause("watch").unwrap();
    let paused =
        |bus: &Bus| bus.health().parts.iter().any(|part| part.condition == Condition::Paused);
    eventually("it is paused", async || paused(&bus)).await;
    assert!(bus.health().healthy, "it is meant");
    for number in 1..10 {
        order(&bus, "anna", number).await;
    }
    eventually("another listener has handled all", async || seen.all().len() == 10).await;
    assert_eq!(notes.all().len(), 1);
    bus.resume("watch").unwrap();
    eventually("it goes on", async || notes.all().len() == 10).await;
    assert!(!paused(&bus));
    soon("closing", bus.close()).await.unwrap();
}

async fn a_stopped_listener_ends_and_its_name_is_free_again(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    watch(&bus, "watch", &notes).await;
    soon("stopping", bus.stop_listening("watch")).await.unwrap();
    assert!(bus.health().parts.iter().all(|part| &*part.name != "watch"));
    order(&bus, "anna", 1).await;
    watch(&bus, "watch", &notes).await;
    eventually("what was fired meanwhile has waited", async || notes.all() == ["1"]).await;
}

async fn a_listener_that_is_not_there_cannot_be_paused(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    watch(&bus, "watch", &Notes::default()).await;
    let error = bus.pause("wach").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    assert!(error.to_string().contains("Did you mean `watch`?"), "{error}");
}
