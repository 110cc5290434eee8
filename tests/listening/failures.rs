//! What becomes of events whose handler fails.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use lightbus::prelude::*;

use crate::{
    contracts::{Notes, Ordered, order, register, tries},
    on_every_transport,
    support::{Place, soon},
};

on_every_transport!(
    after_a_failure_that_ends_the_process_nothing_more_is_handled,
    a_handler_that_panics_before_its_first_wait_is_tried_again,
    what_is_acknowledged_in_spite_of_a_failure_is_tried_once,
);

async fn after_a_failure_that_ends_the_process_nothing_more_is_handled(place: Place) {
    for concurrency in [1, 4] {
        let bus = place.bus("shop").await;
        register(&bus).await;
        let (tried, notes) = (Arc::new(AtomicUsize::new(0)), Notes::default());
        let (count, noted) = (Arc::clone(&tried), notes.clone());
        let name = format!("watch{concurrency}");
        bus.listen(&name, move |event: Ordered| {
            let (count, noted) = (Arc::clone(&count), noted.clone());
            async move {
                if event.number == 0 {
                    count.fetch_add(1, Ordering::SeqCst);
                    return Err(HandlerError::new("broken"));
                }
                noted.add(event.number.to_string());
                Ok(())
            }
        })
        .concurrency(concurrency)
        .on_error(OnError::Shutdown)
        .await
        .unwrap();
        for number in 0..5 {
            order(&bus, "anna", number).await;
        }
        let error = soon("ending", bus.run()).await.unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        assert_eq!((tried.load(Ordering::SeqCst), notes.all().len()), (1, 0));
        // All of them are there for the process that comes next.
        let bus = place.bus("shop").await;
        let noted = notes.clone();
        bus.listen(&name, move |event: Ordered| {
            noted.add(event.number.to_string());
            async { Ok(()) }
        })
        .await
        .unwrap();
        bus.settle().await.unwrap();
        assert_eq!(notes.all(), ["0", "1", "2", "3", "4"]);
        soon("closing", bus.close()).await.unwrap();
    }
}

async fn a_handler_that_panics_before_its_first_wait_is_tried_again(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (tried, notes) = (Arc::new(AtomicUsize::new(0)), Notes::default());
    let (count, noted) = (Arc::clone(&tried), notes.clone());
    bus.listen("watch", move |event: Ordered| {
        // Not in the future: in what makes it.
        assert!(count.fetch_add(1, Ordering::SeqCst) > 0, "as asked");
        noted.add(event.number.to_string());
        async { Ok(()) }
    })
    .on_error(tries(3))
    .await
    .unwrap();
    order(&bus, "anna", 7).await;
    bus.settle().await.unwrap();
    assert_eq!(notes.all(), ["7"]);
    assert_eq!(tried.load(Ordering::SeqCst), 2);
}

async fn what_is_acknowledged_in_spite_of_a_failure_is_tried_once(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    let noted = notes.clone();
    bus.listen("watch", move |event: Ordered| {
        noted.add(event.number.to_string());
        async move { Err(HandlerError::new("never")) }
    })
    .on_error(OnError::Acknowledge)
    .await
    .unwrap();
    for number in 0..3 {
        order(&bus, "anna", number).await;
    }
    bus.settle().await.unwrap();
    assert_eq!(notes.all(), ["0", "1", "2"]);
    assert!(bus.dead_letters("shop", "watch", 10).await.unwrap().is_empty());
}
