//! The key of an event travels, however the event is fired.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{EventMessage, contract::EventFields, prelude::*};

use lightbus_tests::{Place, eventually, on_every_transport};

use super::contracts::{Notes, Ordered, order, register, tries};

on_every_transport!(
    however_an_event_is_fired_it_has_its_key,
    however_they_are_fired_events_of_one_key_stay_in_order,
    the_schema_on_the_bus_names_the_key,
);

/// A key may be left out, and need not be text.
#[lightbus::api(name = "depot", events(Stored))]
pub trait Depot {}

#[derive(Clone, Debug, lightbus::Event)]
#[event(key = "shelf")]
pub struct Stored {
    #[event(default = 7)]
    pub shelf: u32,
    pub note: String,
}

#[test]
fn a_key_is_made_of_the_field_as_it_is_sent() {
    assert_eq!(Ordered::CONTRACT.key, Some("customer_name"));
    assert_eq!(Stored::CONTRACT.key, Some("shelf"));
    let stored = Stored { shelf: 3, note: String::new() };
    assert_eq!(stored.key().as_deref(), Some("3"));
    let ordered = Ordered { customer: "zo\u{eb}\"".to_owned(), number: 1 };
    assert_eq!(ordered.key().as_deref(), Some("zo\u{eb}\""));
}

/// Fires three events of each kind: by type, by name, and on behalf of the service.
async fn fire_by_all_ways(shop: &Bus, tool: &Bus, customer: &str, number: u32) {
    let fields = |number: u32| args! { customer_name: customer, number: number };
    order(shop, customer, number).await;
    shop.fire_event("shop.ordered", fields(number + 1)).await.unwrap();
    tool.admin().fire_on_behalf("shop.ordered", fields(number + 2)).await.unwrap();
}

async fn however_an_event_is_fired_it_has_its_key(place: Place) {
    let (shop, tool) = (place.bus("shop").await, place.bus("tool").await);
    register(&shop).await;
    shop.register(DepotClient::contract()).await.unwrap();
    let keys = Arc::new(Mutex::new(Vec::new()));
    let (noted, first) = (Arc::clone(&keys), AtomicUsize::new(0));
    shop.listen_to("watch", ["shop.ordered", "depot.*"], move |event: Arc<EventMessage>| {
        let is_first = first.fetch_add(1, Ordering::SeqCst) == 0;
        if !is_first {
            noted.lock().unwrap().push(event.key.as_deref().map(str::to_owned));
        }
        async move { if is_first { Err(HandlerError::permanent("not yet")) } else { Ok(()) } }
    })
    .await
    .unwrap();
    order(&shop, "anna", 0).await;
    shop.wait_until_idle().await.unwrap();
    let admin = tool.admin();
    let letters = admin.dead_letters("shop", "watch", 10).await.unwrap();
    assert_eq!(admin.requeue_dead_letters("shop", "watch", &letters).await.unwrap(), 1);
    eventually("the dead letter is retried", async || keys.lock().unwrap().len() == 1).await;
    fire_by_all_ways(&shop, &tool, "anna", 1).await;
    shop.wait_until_idle().await.unwrap();
    // Python's wire form, which Redis has, has no place for a key: there its receiver makes it.
    let carried = |key: &str| (!matches!(place, Place::Redis(_))).then(|| key.to_owned());
    assert_eq!(*keys.lock().unwrap(), vec![carried("anna"); 4]);

    keys.lock().unwrap().clear();
    shop.fire(Stored { shelf: 7, note: "typed".into() }).await.unwrap();
    shop.fire_event("depot.stored", args! { shelf: 7, note: "named" }).await.unwrap();
    shop.fire_event("depot.stored", args! { note: "left out" }).await.unwrap();
    admin.fire_on_behalf("depot.stored", args! { note: "on behalf" }).await.unwrap();
    shop.wait_until_idle().await.unwrap();
    assert_eq!(*keys.lock().unwrap(), vec![carried("7"); 4]);
}

async fn however_they_are_fired_events_of_one_key_stay_in_order(place: Place) {
    let (shop, tool) = (place.bus("shop").await, place.bus("tool").await);
    register(&shop).await;
    let mail = place.bus("mail").await;
    let (notes, busy) = (Notes::default(), Arc::new(AtomicUsize::new(0)));
    let (noted, at_work) = (notes.clone(), Arc::clone(&busy));
    // Without a type, and without `ordered_by`: the key is the one that the event declares.
    mail.listen_to("watch", ["shop.ordered"], move |event: Arc<EventMessage>| {
        let (noted, at_work) = (noted.clone(), Arc::clone(&at_work));
        async move {
            let together = at_work.fetch_add(1, Ordering::SeqCst);
            // The earlier, the slower: without order the later ones would overtake.
            let number = event.fields.get("number").map(|json| String::from_utf8_lossy(json));
            let number: u64 = number.as_deref().unwrap_or_default().parse()?;
            tokio::time::sleep(Duration::from_millis(3 - number % 3)).await;
            at_work.fetch_sub(1, Ordering::SeqCst);
            noted.add(format!("{number:02} {together}"));
            Ok(())
        }
    })
    .concurrency(8)
    .on_error(tries(1))
    .await
    .unwrap();
    for round in 0..5 {
        fire_by_all_ways(&shop, &tool, "anna", 3 * round).await;
    }
    mail.wait_until_idle().await.unwrap();
    let expected: Vec<_> = (0..15).map(|number| format!("{number:02} 0")).collect();
    assert_eq!(notes.all(), expected);
}

async fn the_schema_on_the_bus_names_the_key(place: Place) {
    let (shop, tool) = (place.bus("shop").await, place.bus("tool").await);
    register(&shop).await;
    let schema = tool.schema("shop").await.unwrap().unwrap();
    assert_eq!(schema["events"]["ordered"]["x-key"], "customer_name", "{schema}");
    assert!(schema["events"]["shipped"].get("x-key").is_none(), "{schema}");
}
