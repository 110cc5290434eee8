//! What becomes of events whose handler fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use lightbus::{RetryPolicy, prelude::*};
use tokio::sync::mpsc;

use lightbus_tests::{Place, on_every_transport, soon};

use super::contracts::{Notes, Ordered, order, register, tries};

on_every_transport!(
    after_a_failure_that_ends_the_process_nothing_more_is_handled,
    a_handler_that_panics_before_its_first_wait_is_tried_again,
    what_is_acknowledged_in_spite_of_a_failure_is_tried_once,
    a_dead_letter_says_what_why_how_often_and_whose,
    a_dead_letter_counts_the_deliveries_before,
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
        bus.wait_until_idle().await.unwrap();
        assert_eq!(notes.sorted(), [0, 1, 2, 3, 4]);
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
    bus.wait_until_idle().await.unwrap();
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
    bus.wait_until_idle().await.unwrap();
    assert_eq!(notes.all(), ["0", "1", "2"]);
    assert!(bus.admin().dead_letters("shop", "watch", 10).await.unwrap().is_empty());
}

async fn a_dead_letter_says_what_why_how_often_and_whose(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let before = SystemTime::now() - Duration::from_secs(1);
    for concurrency in [1, 4] {
        let name = format!("watch{concurrency}");
        let listen =
            bus.listen(&name, |_: Ordered| async { Err(HandlerError::new("no such customer")) });
        listen.concurrency(concurrency).on_error(tries(4)).await.unwrap();
    }
    let fired = bus.fire(Ordered { customer: "anna".into(), number: 7 }).await.unwrap();
    bus.wait_until_idle().await.unwrap();
    for listener in ["watch1", "watch4"] {
        let letters = bus.admin().dead_letters("shop", listener, 10).await.unwrap();
        let [letter] = &letters[..] else { panic!("{letters:?}") };
        assert_eq!(letter.attempts, 4);
        assert_eq!(letter.reason, "no such customer");
        assert_eq!(letter.group, lightbus::admin::GroupSpec::new("shop", listener));
        assert_eq!((&*letter.event.api, &*letter.event.event), ("shop", "ordered"));
        assert_eq!(letter.event.id, fired.id);
        assert_eq!(letter.event.native_id.as_ref(), Some(&fired.native_id));
        assert_eq!(letter.event.fields.get("customer_name").unwrap(), &"\"anna\"");
        assert!(!letter.id.is_empty());
        for time in [letter.event.time.unwrap(), letter.time] {
            assert!(time >= before && time <= SystemTime::now() + Duration::from_secs(1));
        }
    }
}

async fn a_dead_letter_counts_the_deliveries_before(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    // A process that takes the event, fails, and goes away before it may try again.
    let (entered, mut inside) = mpsc::channel(1);
    bus.listen("watch", move |_: Ordered| {
        let entered = entered.clone();
        async move {
            entered.send(()).await?;
            Err(HandlerError::new("not here"))
        }
    })
    .on_error(OnError::Retry(
        RetryPolicy::default().backoff(Duration::from_secs(600), Duration::from_secs(600)),
    ))
    .await
    .unwrap();
    order(&bus, "anna", 7).await;
    soon("the first delivery", inside.recv()).await.unwrap();
    soon("closing", bus.close()).await.unwrap();
    let bus = place.bus("shop").await;
    let listen = bus.listen("watch", |_: Ordered| async { Err(HandlerError::new("nowhere")) });
    listen.on_error(tries(3)).await.unwrap();
    bus.wait_until_idle().await.unwrap();
    let letters = bus.admin().dead_letters("shop", "watch", 10).await.unwrap();
    let before = u32::from(place.counts_deliveries());
    assert_eq!(letters[0].attempts, before + 3, "those before, three here");
    assert_eq!(letters[0].reason, "nowhere");
}
