//! Events of one key are handled one after the other, those of others beside them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{ErrorKind, RetryPolicy, prelude::*};
use tokio::sync::{Notify, mpsc};

use lightbus_tests::{Place, eventually, on_every_transport, soon};

use super::contracts::{Notes, Ordered, Shipped, order, register, tries};

on_every_transport!(
    events_of_one_key_stay_in_order,
    a_busy_key_leaves_the_others_alone,
    while_one_key_waits_to_be_tried_again_the_others_go_on,
    a_field_that_is_named_keeps_order_without_types_too,
    without_a_key_events_are_handled_side_by_side,
    a_field_that_the_event_lacks_is_refused,
    what_is_waiting_behind_a_key_comes_again_after_closing,
);

async fn events_of_one_key_stay_in_order(place: Place) {
    const CUSTOMERS: [&str; 5] = ["anna", "ben", "zoë", "da\"vid", "eve"];
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (notes, at_work) = (Notes::default(), Arc::new(AtomicUsize::new(0)));
    let most = Arc::new(AtomicUsize::new(0));
    let (noted, busy, peak) = (notes.clone(), Arc::clone(&at_work), Arc::clone(&most));
    bus.listen("watch", move |event: Ordered| {
        let (noted, busy, peak) = (noted.clone(), Arc::clone(&busy), Arc::clone(&peak));
        async move {
            peak.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // The earlier, the slower: without order the later ones would overtake.
            tokio::time::sleep(Duration::from_millis(u64::from(3 - event.number % 3))).await;
            noted.add(format!("{} {:02}", event.customer, event.number));
            busy.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        }
    })
    .concurrency(4)
    .await
    .unwrap();
    for number in 0..20 {
        for customer in CUSTOMERS {
            order(&bus, customer, number).await;
        }
    }
    bus.wait_until_idle().await.unwrap();
    for customer in CUSTOMERS {
        let expected: Vec<_> = (0..20).map(|number| format!("{customer} {number:02}")).collect();
        assert_eq!(notes.of(customer), expected);
    }
    let most = most.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at once of at most 4");
}

async fn a_busy_key_leaves_the_others_alone(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (notes, go) = (Notes::default(), Arc::new(Notify::new()));
    let (noted, gate) = (notes.clone(), Arc::clone(&go));
    bus.listen("watch", move |event: Received<Ordered>| {
        let (noted, gate) = (noted.clone(), Arc::clone(&gate));
        async move {
            noted.add(format!("{} {} begins", event.customer, event.number));
            if event.customer == "anna" && event.number == 0 {
                gate.notified().await;
            }
            noted.add(format!("{} {} ends", event.customer, event.number));
            Ok(())
        }
    })
    .concurrency(8)
    .await
    .unwrap();
    for number in 0..2 {
        order(&bus, "anna", number).await;
    }
    for number in 0..30 {
        order(&bus, "ben", number).await;
    }
    eventually("ben is served while anna is busy", async || notes.of("ben 29 ends").len() == 1)
        .await;
    assert_eq!(notes.of("anna"), ["anna 0 begins"]);
    go.notify_one();
    bus.wait_until_idle().await.unwrap();
    assert_eq!(notes.of("anna"), ["anna 0 begins", "anna 0 ends", "anna 1 begins", "anna 1 ends"]);
}

async fn while_one_key_waits_to_be_tried_again_the_others_go_on(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (notes, broken) = (Notes::default(), Arc::new(AtomicUsize::new(1)));
    let (noted, is_broken) = (notes.clone(), Arc::clone(&broken));
    // As many keys fail as may be handled at once: those that wait must take no place.
    let policy =
        RetryPolicy::attempts(1000).backoff(Duration::from_millis(20), Duration::from_millis(20));
    bus.listen("watch", move |event: Ordered| {
        let (noted, is_broken) = (noted.clone(), Arc::clone(&is_broken));
        async move {
            if event.customer.starts_with("bad") && is_broken.load(Ordering::SeqCst) == 1 {
                return Err(HandlerError::new("not yet"));
            }
            noted.add(format!("{} {}", event.customer, event.number));
            Ok(())
        }
    })
    .concurrency(2)
    .on_error(OnError::Retry(policy))
    .await
    .unwrap();
    for number in 0..3 {
        for customer in ["bad1", "bad2", "bad3"] {
            order(&bus, customer, number).await;
        }
    }
    for number in 0..5 {
        order(&bus, "good", number).await;
    }
    eventually("the good ones are handled", async || notes.of("good 4").len() == 1).await;
    assert!(notes.of("bad").is_empty());
    broken.store(0, Ordering::SeqCst);
    bus.wait_until_idle().await.unwrap();
    for bad in ["bad1", "bad2", "bad3"] {
        assert_eq!(notes.of(bad), [0, 1, 2].map(|number| format!("{bad} {number}")));
    }
}

async fn a_field_that_is_named_keeps_order_without_types_too(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    let noted = notes.clone();
    bus.listen_to("watch", ["shop.*"], move |event| {
        let noted = noted.clone();
        async move {
            let text = |field| {
                event.fields.get(field).map(|json| String::from_utf8_lossy(json).into_owned())
            };
            let (customer, number) = (text("customer"), text("number"));
            let number = number.ok_or_else(|| HandlerError::new("no number"))?;
            if number == "0" {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            noted.add(format!("{} {number}", customer.unwrap_or_default()));
            Ok(())
        }
    })
    .concurrency(8)
    .ordered_by("customer")
    .await
    .unwrap();
    for number in 0..5 {
        for customer in ["anna", "ben"] {
            bus.fire(Shipped { customer: customer.into(), number }).await.unwrap();
        }
    }
    bus.wait_until_idle().await.unwrap();
    for customer in ["\"anna\"", "\"ben\""] {
        let mut all = notes.of(customer);
        if !place.orders_without_keys() {
            // The broker had them in another order already.
            all.sort_unstable();
        }
        assert_eq!(all, [0, 1, 2, 3, 4].map(|number| format!("{customer} {number}")));
    }
}

async fn without_a_key_events_are_handled_side_by_side(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (entered, mut inside) = mpsc::channel(10);
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    bus.listen("watch", move |event: Shipped| {
        let (entered, gate) = (entered.clone(), Arc::clone(&gate));
        async move {
            entered.send(event.number).await.map_err(|_| HandlerError::new("gone"))?;
            gate.notified().await;
            Ok(())
        }
    })
    .concurrency(3)
    .await
    .unwrap();
    for number in 0..4 {
        bus.fire(Shipped { customer: "anna".into(), number }).await.unwrap();
    }
    let mut begun = Vec::new();
    for _ in 0..3 {
        begun.push(soon("a handler", inside.recv()).await.unwrap());
    }
    begun.sort_unstable();
    assert_eq!(begun, [0, 1, 2], "three at once, of the same customer");
    assert!(inside.try_recv().is_err(), "and not more");
    go.notify_one();
    assert_eq!(soon("the fourth", inside.recv()).await, Some(3));
    for _ in 0..3 {
        go.notify_one();
        tokio::task::yield_now().await;
    }
    eventually("all are handled", async || {
        go.notify_one();
        let lag = bus.admin().lag("shop", "shop", "watch").await.unwrap();
        lag.pending + lag.waiting == 0
    })
    .await;
}

async fn a_field_that_the_event_lacks_is_refused(place: Place) {
    let bus = place.bus("shop").await;
    let listen = bus.listen("watch", |_: Shipped| async { Ok(()) }).ordered_by("custmer");
    let error = listen.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("Did you mean `customer`?"), "{error}");
    bus.listen("watch", |_: Shipped| async { Ok(()) }).ordered_by("customer").await.unwrap();
}

async fn what_is_waiting_behind_a_key_comes_again_after_closing(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (entered, mut inside) = mpsc::channel(10);
    bus.listen("watch", move |_: Ordered| {
        let entered = entered.clone();
        async move {
            entered.send(()).await.map_err(|_| HandlerError::new("gone"))?;
            Err(HandlerError::new("not here"))
        }
    })
    .concurrency(4)
    .on_error(OnError::Retry(
        RetryPolicy::default().backoff(Duration::from_secs(60), Duration::from_secs(60)),
    ))
    .await
    .unwrap();
    for number in 0..10 {
        order(&bus, "anna", number).await;
    }
    soon("the first try", inside.recv()).await.unwrap();
    soon("closing", bus.close()).await.unwrap();
    assert!(inside.try_recv().is_err(), "nothing overtook the one that failed");
    let (bus, notes) = (place.bus("shop").await, Notes::default());
    let noted = notes.clone();
    bus.listen("watch", move |event: Ordered| {
        noted.add(format!("{:02}", event.number));
        async { Ok(()) }
    })
    .concurrency(4)
    .on_error(tries(1))
    .await
    .unwrap();
    bus.wait_until_idle().await.unwrap();
    assert_eq!(notes.sorted(), (0..10).collect::<Vec<_>>());
}
