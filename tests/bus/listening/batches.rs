//! Handlers that take several events at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lightbus::{ErrorKind, EventMessage, RetryPolicy, plugins::Plugin, prelude::*};
use tokio::sync::{Notify, mpsc};

use lightbus_tests::{Place, on_every_transport, soon};

use super::contracts::{Notes, Ordered, order, register, tries};

on_every_transport!(
    a_batch_is_handed_over_when_it_is_full,
    a_batch_that_is_not_full_waits_no_longer_than_it_was_told,
    only_what_failed_is_tried_again,
    one_bad_event_takes_no_other_with_it,
    an_unreadable_event_does_not_spoil_its_batch,
    a_batch_that_ends_the_process_comes_again,
    closing_gives_back_a_batch_that_waits,
    settings_that_do_not_go_together_are_refused,
);

const LONG: Duration = Duration::from_secs(600);

fn numbers(events: &[Received<Ordered>]) -> String {
    let numbers: Vec<_> = events.iter().map(|event| event.number.to_string()).collect();
    numbers.join(" ")
}

async fn a_batch_is_handed_over_when_it_is_full(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    let noted = notes.clone();
    bus.listen_in_batches("watch", move |events: Vec<Received<Ordered>>| {
        noted.add(numbers(&events));
        async { Ok(()) }
    })
    .batch(4, LONG)
    .await
    .unwrap();
    for number in 0..12 {
        order(&bus, "anna", number).await;
    }
    soon("full batches", bus.wait_until_idle()).await.unwrap();
    assert_eq!(notes.all(), ["0 1 2 3", "4 5 6 7", "8 9 10 11"]);
}

async fn a_batch_that_is_not_full_waits_no_longer_than_it_was_told(place: Place) {
    const WAIT: Duration = Duration::from_millis(150);
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    let noted = notes.clone();
    bus.listen_in_batches("watch", move |events: Vec<Received<Ordered>>| {
        noted.add(numbers(&events));
        async { Ok(()) }
    })
    .batch(1000, WAIT)
    .await
    .unwrap();
    let began = Instant::now();
    order(&bus, "anna", 0).await;
    soon("a batch of what is there", bus.wait_until_idle()).await.unwrap();
    assert!(began.elapsed() >= WAIT, "it waited for more");
    assert_eq!(notes.all(), ["0"]);
}

async fn only_what_failed_is_tried_again(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    let noted = notes.clone();
    bus.listen_in_batches("watch", move |events: Vec<Received<Ordered>>| {
        noted.add(numbers(&events));
        let failed = events.iter().enumerate().filter(|(_, event)| event.number % 3 == 0);
        let failed: Vec<_> = failed
            .map(|(index, event)| (index, HandlerError::new(format!("no {}", event.number))))
            .collect();
        async move { if failed.is_empty() { Ok(()) } else { Err(HandlerError::of_events(failed)) } }
    })
    .batch(6, LONG)
    .on_error(tries(3))
    .await
    .unwrap();
    for number in 1..7 {
        order(&bus, "anna", number).await;
    }
    soon("settling", bus.wait_until_idle()).await.unwrap();
    assert_eq!(notes.all(), ["1 2 3 4 5 6", "3 6", "3", "6"], "the last time alone");
    let letters = bus.admin().dead_letters("shop", "watch", 10).await.unwrap();
    let mut reasons: Vec<_> = letters.iter().map(|letter| letter.reason.as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["no 3", "no 6"]);
}

async fn one_bad_event_takes_no_other_with_it(place: Place) {
    for how in ["an error", "a panic"] {
        let bus = place.bus("shop").await;
        register(&bus).await;
        let (handled, tried) = (Notes::default(), Arc::new(AtomicUsize::new(0)));
        let (noted, count) = (handled.clone(), Arc::clone(&tried));
        let name = how.replace(' ', "_");
        bus.listen_in_batches(&name, move |events: Vec<Received<Ordered>>| {
            let (noted, count) = (noted.clone(), Arc::clone(&count));
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                if events.iter().any(|event| event.number == 2) {
                    assert!(how != "a panic", "as asked");
                    return Err(HandlerError::new("2 is bad"));
                }
                noted.add(numbers(&events));
                Ok(())
            }
        })
        .batch(5, LONG)
        .on_error(tries(3))
        .await
        .unwrap();
        for number in 0..5 {
            order(&bus, "anna", number).await;
        }
        soon("settling", bus.wait_until_idle()).await.unwrap();
        assert_eq!(handled.all(), ["0", "1", "3", "4"], "{how}");
        assert_eq!(tried.load(Ordering::SeqCst), 2 + 5, "twice all, then each alone");
        let letters = bus.admin().dead_letters("shop", &name, 10).await.unwrap();
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert_eq!(letters[0].event.fields.get("number").unwrap(), &"2");
        soon("closing", bus.close()).await.unwrap();
    }
}

async fn an_unreadable_event_does_not_spoil_its_batch(place: Place) {
    #[lightbus::api(name = "shop", events(OldOrdered))]
    pub trait OldShop {}

    /// The same event in an older form.
    #[derive(lightbus::Event)]
    #[event(name = "ordered")]
    pub struct OldOrdered {
        pub customer_name: String,
    }

    let (old, new) = (place.bus("old").await, place.bus("shop").await);
    let notes = Notes::default();
    let noted = notes.clone();
    new.listen_in_batches("watch", move |events: Vec<Received<Ordered>>| {
        noted.add(numbers(&events));
        async { Ok(()) }
    })
    .batch(3, LONG)
    .await
    .unwrap();
    // Under the old schema it is sound: only the type finds out.
    old.register(OldShopClient::contract()).await.unwrap();
    old.fire(OldOrdered { customer_name: "anna".into() }).await.unwrap();
    register(&new).await;
    for number in 0..2 {
        order(&new, "anna", number).await;
    }
    soon("settling", new.wait_until_idle()).await.unwrap();
    assert_eq!(notes.all(), ["0 1"]);
    let letters = new.admin().dead_letters("shop", "watch", 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("number"), "{}", letters[0].reason);
}

async fn a_batch_that_ends_the_process_comes_again(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    bus.listen_in_batches("watch", |_: Vec<Ordered>| async { Err(HandlerError::new("broken")) })
        .batch(2, LONG)
        .on_error(OnError::Shutdown)
        .await
        .unwrap();
    for number in 0..4 {
        order(&bus, "anna", number).await;
    }
    let error = soon("ending", bus.run()).await.unwrap_err();
    assert!(error.to_string().contains("broken"), "{error}");
    let (bus, notes) = (place.bus("shop").await, Notes::default());
    let noted = notes.clone();
    bus.listen_in_batches("watch", move |events: Vec<Received<Ordered>>| {
        noted.add(numbers(&events));
        async { Ok(()) }
    })
    .batch(4, LONG)
    .await
    .unwrap();
    soon("settling", bus.wait_until_idle()).await.unwrap();
    assert_eq!(notes.sorted(), [0, 1, 2, 3]);
}

async fn closing_gives_back_a_batch_that_waits(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (entered, mut inside) = mpsc::channel(10);
    let go = Arc::new(Notify::new());
    let gate = Arc::clone(&go);
    bus.listen_in_batches("watch", move |events: Vec<Received<Ordered>>| {
        let (entered, gate) = (entered.clone(), Arc::clone(&gate));
        async move {
            entered.send(numbers(&events)).await.map_err(|_| HandlerError::new("gone"))?;
            gate.notified().await;
            // Now a batch waits to be tried again, and others are behind it.
            Err(HandlerError::new("not here"))
        }
    })
    .batch(2, LONG)
    .on_error(OnError::Retry(RetryPolicy::default().backoff(LONG, LONG)))
    .await
    .unwrap();
    for number in 0..5 {
        order(&bus, "anna", number).await;
    }
    assert_eq!(soon("the first try", inside.recv()).await.unwrap(), "0 1");
    go.notify_one();
    let began = Instant::now();
    soon("closing", bus.close()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5), "nothing was held");
    let (bus, notes) = (place.bus("shop").await, Notes::default());
    let noted = notes.clone();
    bus.listen_in_batches("watch", move |events: Vec<Received<Ordered>>| {
        noted.add(numbers(&events));
        async { Ok(()) }
    })
    .batch(5, LONG)
    .await
    .unwrap();
    soon("settling", bus.wait_until_idle()).await.unwrap();
    assert_eq!(notes.sorted(), [0, 1, 2, 3, 4]);
}

async fn settings_that_do_not_go_together_are_refused(place: Place) {
    let bus = place.bus("shop").await;
    let listen = bus.listen("watch", |_: Ordered| async { Ok(()) }).batch(10, LONG);
    let error = listen.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("listen_in_batches"), "{error}");
    let listen = bus.listen_in_batches("watch", |_: Vec<Ordered>| async { Ok(()) }).concurrency(2);
    let error = listen.await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    bus.listen_in_batches("watch", |_: Vec<Ordered>| async { Ok(()) }).await.unwrap();
}

/// Doubles numbers before, and notes what was handled after.
struct Doubles(Notes);

#[lightbus::async_trait]
impl Plugin for Doubles {
    fn name(&self) -> &str {
        "doubles"
    }

    async fn before_event_execution(
        &self,
        _: &Bus,
        event: &mut EventMessage,
        _: &str,
    ) -> lightbus::Result<()> {
        let number: u32 = number(event);
        event.fields = args! { customer_name: "anna", number: number * 2 }.into_fields()?;
        Ok(())
    }

    async fn after_event_execution(
        &self,
        _: &Bus,
        event: &EventMessage,
        _: &str,
    ) -> lightbus::Result<()> {
        self.0.add(format!("done {}", number(event)));
        Ok(())
    }
}

fn number(event: &EventMessage) -> u32 {
    std::str::from_utf8(event.fields.get("number").unwrap()).unwrap().parse().unwrap()
}

#[tokio::test]
async fn plugins_see_each_event_of_a_batch() {
    let notes = Notes::default();
    let config = lightbus::config::Config::default();
    let builder = Bus::builder().config(config).service_name("shop").plugin(Doubles(notes.clone()));
    let bus = builder.connect().await.unwrap();
    register(&bus).await;
    let noted = notes.clone();
    bus.listen_in_batches("watch", move |events: Vec<Received<Ordered>>| {
        noted.add(numbers(&events));
        let bad = events.iter().position(|event| event.number == 4);
        async move {
            match bad {
                Some(bad) => Err(HandlerError::of_events([(bad, HandlerError::new("no"))])),
                None => Ok(()),
            }
        }
    })
    .batch(3, LONG)
    .on_error(tries(1))
    .await
    .unwrap();
    for number in 1..4 {
        order(&bus, "anna", number).await;
    }
    soon("settling", bus.wait_until_idle()).await.unwrap();
    assert_eq!(notes.all(), ["2 4 6", "done 2", "done 6"]);
    let letters = bus.admin().dead_letters("shop", "watch", 10).await.unwrap();
    assert_eq!(letters[0].event.fields.get("number").unwrap(), &"2", "as it was fired");
}
