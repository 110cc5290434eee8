//! What a listener listens to, and from where on.

use std::time::{Duration, SystemTime};

use lightbus::{ErrorKind, EventMessage, FromEvent, config::Config, prelude::*};

use lightbus_tests::{Place, RedisServer, eventually, on_every_transport, redis_yaml};

use crate::log::log;

use super::contracts::{Notes, Ordered, Paid, Shipped, order, register};

on_every_transport!(
    every_event_of_an_api_and_events_of_others_go_to_one_listener,
    several_events_by_name_and_no_others,
    an_event_without_types_becomes_typed,
    what_cannot_be_listened_to_is_said,
    patterns_are_refused_with_the_events_that_they_may_mean,
    a_name_that_the_schemas_lack_is_a_warning_with_the_nearest,
    a_name_that_is_taken_is_free_again_after_a_failure,
    a_new_listener_begins_where_it_is_told,
    a_listener_that_is_forgotten_begins_anew,
);

async fn fire_one_of_each(bus: &Bus) {
    order(bus, "anna", 1).await;
    bus.fire(Shipped { customer: "anna".into(), number: 2 }).await.unwrap();
    bus.fire(Paid { amount: 3 }).await.unwrap();
}

fn name(event: &EventMessage) -> String {
    format!("{}.{}", event.api, event.event)
}

async fn every_event_of_an_api_and_events_of_others_go_to_one_listener(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    let noted = notes.clone();
    bus.listen_to("watch", ["shop.*", "till.paid", "shop.ordered"], move |event| {
        noted.add(name(&event));
        async { Ok(()) }
    })
    .await
    .unwrap();
    fire_one_of_each(&bus).await;
    bus.wait_until_idle().await.unwrap();
    let mut all = notes.all();
    all.sort_unstable();
    assert_eq!(all, ["shop.ordered", "shop.shipped", "till.paid"]);
    // One listener, one group: in both APIs it is the same name that is behind, or not.
    for api in ["shop", "till"] {
        let lag = bus.admin().lag(api, "shop", "watch").await.unwrap();
        assert_eq!((lag.waiting, lag.pending), (0, 0), "{api}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lag_of_events_with_streams_of_their_own_is_their_sum() {
    let Some(redis) = RedisServer::start() else { return };
    let yaml = redis_yaml(&redis.url(), ", stream_use: per_event");
    let connect = async |service: &str| {
        let config = Config::from_yaml(&yaml).unwrap();
        Bus::builder().config(config).service_name(service).connect().await.unwrap()
    };
    let shop = connect("shop").await;
    register(&shop).await;
    let nothing = |_| async { Ok(()) };
    shop.listen_to("watch", ["shop.ordered", "shop.shipped"], nothing).await.unwrap();
    shop.stop_listening("watch").await.unwrap();
    fire_one_of_each(&shop).await;
    // Another process knows the events from the schema.
    let operator = connect("operator").await;
    let lag = operator.admin().lag("shop", "shop", "watch").await.unwrap();
    assert_eq!((lag.waiting, lag.pending), (2, 0));
    operator.admin().forget_listener("shop", "watch", ["shop.*"]).await.unwrap();
    let lag = operator.admin().lag("shop", "shop", "watch").await.unwrap();
    assert_eq!((lag.waiting, lag.pending), (0, 0));
}

async fn several_events_by_name_and_no_others(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    let noted = notes.clone();
    bus.listen_to("watch", ["shop.shipped", "till.paid"], move |event| {
        noted.add(name(&event));
        async { Ok(()) }
    })
    .await
    .unwrap();
    fire_one_of_each(&bus).await;
    fire_one_of_each(&bus).await;
    bus.wait_until_idle().await.unwrap();
    let mut all = notes.all();
    all.sort_unstable();
    assert_eq!(all, ["shop.shipped", "shop.shipped", "till.paid", "till.paid"]);
}

async fn an_event_without_types_becomes_typed(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let notes = Notes::default();
    let noted = notes.clone();
    bus.listen_to("watch", ["shop.*"], move |event| {
        let noted = noted.clone();
        async move {
            match &*event.event {
                "ordered" => noted.add(format!("{}", Ordered::from_message(&event)?.number)),
                other => noted.add(other),
            }
            Ok(())
        }
    })
    .await
    .unwrap();
    fire_one_of_each(&bus).await;
    bus.wait_until_idle().await.unwrap();
    let mut all = notes.all();
    if !place.orders_without_keys() {
        all.sort_unstable();
    }
    assert_eq!(all, ["1", "shipped"]);
}

async fn what_cannot_be_listened_to_is_said(place: Place) {
    let bus = place.bus("shop").await;
    let nothing: [&str; 0] = [];
    let error = bus.listen_to("watch", nothing, |_| async { Ok(()) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("name at least one event"), "{error}");
    let error = bus.listen_to("watch", ["ordered"], |_| async { Ok(()) }).await.unwrap_err();
    assert!(error.to_string().contains("listening as watch"), "{error}");
    let error = bus.listen_to("", ["shop.*"], |_| async { Ok(()) }).await.unwrap_err();
    assert!(error.to_string().contains("a listener needs a name"), "{error}");
}

async fn patterns_are_refused_with_the_events_that_they_may_mean(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    for (pattern, meant) in [
        ("*.paid", "Did you mean `till.paid`?"),
        ("shop.ord*", "Did you mean `shop.ordered`?"),
        ("*.*", "Did you mean `shop.ordered` or `shop.shipped` or `till.paid`?"),
        ("shop.*ed", "Did you mean `shop.ordered` or `shop.shipped`?"),
        ("till.piad*", "Did you mean `till.paid`?"),
        ("**.x", "name each API, or each event"),
    ] {
        let listen = bus.listen_to("watch", [pattern], |_| async { Ok(()) });
        let error = listen.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        let text = error.to_string();
        assert!(text.contains("all events of one API, as in `auth.*`"), "{text}");
        assert!(text.contains(pattern) && text.contains(meant), "{text}");
    }
    // So for operators, who would otherwise forget, or read, nothing at all.
    let admin = bus.admin();
    let error = admin.forget_listener("shop", "watch", ["*.paid"]).await.unwrap_err();
    assert!(error.to_string().contains("Did you mean `till.paid`?"), "{error}");
    let error = admin.history("shop.ord*", None, None).await.err().unwrap();
    assert!(error.to_string().contains("Did you mean `shop.ordered`?"), "{error}");
    for bad in ["shop.or dered", "sh op.ordered", "shop:x.ordered", "default.x"] {
        let error = bus.listen_to("watch", [bad], |_| async { Ok(()) }).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{bad}: {error}");
    }
}

async fn a_name_that_the_schemas_lack_is_a_warning_with_the_nearest(place: Place) {
    let log = log();
    let (shop, mail) = (place.bus("shop").await, place.bus("mail").await);
    register(&shop).await;
    // A name of its own in the log, which the tests share.
    let listener = lightbus_tests::unique("watch");
    let names = ["shop.orderd", "shopp.ordered", "till.paid", "shop.*", "unheard.of"];
    mail.listen_to(&listener, names, |_| async { Ok(()) }).await.unwrap();
    for (wrong, near) in [("shop.orderd", "shop.ordered"), ("shopp.ordered", "shop.ordered")] {
        eventually(wrong, async || {
            log().lines().any(|line| {
                line.contains(&listener)
                    && line.contains(&format!("`{wrong}`. Did you mean `{near}`?"))
            })
        })
        .await;
    }
    let (log, listener) = (log(), format!("\"{listener}\""));
    assert_eq!(log.lines().filter(|line| line.contains(&listener)).count(), 2, "{log}");
}

async fn a_name_that_is_taken_is_free_again_after_a_failure(place: Place) {
    let bus = place.bus("shop").await;
    let listen = bus.listen("watch", |_: Shipped| async { Ok(()) }).ordered_by("nothing");
    listen.await.unwrap_err();
    bus.listen("watch", |_: Shipped| async { Ok(()) }).await.unwrap();
    // Also for another event, and without types: a name is one consumer group.
    let error = bus.listen("watch", |_: Paid| async { Ok(()) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("already has a listener of this name"), "{error}");
    let error = bus.listen_to("watch", ["till.*"], |_| async { Ok(()) }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

async fn a_new_listener_begins_where_it_is_told(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    order(&bus, "anna", 0).await;
    // The broker's clock, not ours: between the two events, which are two milliseconds apart.
    let first = match bus.admin().history("shop.ordered", None, None).await {
        Ok(first) => first,
        Err(error) => {
            // Without history there is nothing before now.
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let listen = bus.listen("earliest", |_: Ordered| async { Ok(()) });
            let error = listen.start(Start::Earliest).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            return;
        }
    };
    let first: Vec<_> = futures_util::StreamExt::collect(first).await;
    let first: &EventMessage = first[0].as_ref().unwrap();
    let between: SystemTime = first.time.unwrap() + Duration::from_millis(1);
    tokio::time::sleep(Duration::from_millis(2)).await;
    order(&bus, "anna", 1).await;
    let notes = Notes::default();
    for (listener, start) in
        [("new", Start::New), ("since", Start::Since(between)), ("earliest", Start::Earliest)]
    {
        let noted = notes.clone();
        bus.listen(listener, move |event: Ordered| {
            noted.add(format!("{listener} {}", event.number));
            async { Ok(()) }
        })
        .start(start)
        .await
        .unwrap();
    }
    order(&bus, "anna", 2).await;
    bus.wait_until_idle().await.unwrap();
    assert_eq!(notes.of("new"), ["new 2"]);
    assert_eq!(notes.of("since"), ["since 1", "since 2"]);
    assert_eq!(notes.of("earliest"), ["earliest 0", "earliest 1", "earliest 2"]);
}

async fn a_listener_that_is_forgotten_begins_anew(place: Place) {
    let (shop, tool) = (place.bus("shop").await, place.bus("tool").await);
    register(&shop).await;
    let events = ["shop.*", "till.paid"];
    let first = place.bus("mail").await;
    first.listen_to("watch", events, |_| async { Ok(()) }).await.unwrap();
    first.close().await.unwrap();
    fire_one_of_each(&shop).await;
    tool.admin().forget_listener("mail", "watch", events).await.unwrap();
    // Nobody is there any more to be forgotten.
    tool.admin().forget_listener("mail", "watch", events).await.unwrap();
    let error = tool.admin().forget_listener("mail", "watch", ["shop"]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");

    let (again, notes) = (place.bus("mail").await, Notes::default());
    let noted = notes.clone();
    again
        .listen_to("watch", events, move |event| {
            noted.add(name(&event));
            async { Ok(()) }
        })
        .await
        .unwrap();
    shop.fire(Paid { amount: 4 }).await.unwrap();
    again.wait_until_idle().await.unwrap();
    assert_eq!(notes.all(), ["till.paid"], "what waited is gone");
}
