//! Dead letters are read page by page, handled again, and removed.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use lightbus::{DeadLetter, ErrorKind, prelude::*};

use lightbus_tests::{Place, eventually, on_every_transport};

use super::contracts::{Notes, Ordered, order, register, tries};

on_every_transport!(
    they_are_read_page_by_page,
    they_are_removed_by_hand,
    one_is_handled_again_by_its_listener_alone,
    all_are_handled_again_and_those_that_fail_stay,
    a_batch_listener_replays_too,
    they_go_back_to_their_listener_from_another_process,
    what_cannot_be_replayed_is_said,
    a_group_has_only_its_own_though_another_s_name_ends_like_it,
);

/// A bus whose listeners `watch` and `other` fail while it is broken, with as many dead letters each.
async fn broken(place: &Place, letters: u32) -> (Bus, Notes, Arc<AtomicBool>) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (notes, broken) = (Notes::default(), Arc::new(AtomicBool::new(true)));
    for listener in ["watch", "other"] {
        let (noted, is_broken) = (notes.clone(), Arc::clone(&broken));
        bus.listen(listener, move |event: Ordered| {
            let (noted, is_broken) = (noted.clone(), Arc::clone(&is_broken));
            async move {
                if is_broken.load(Ordering::SeqCst) || event.customer == "bad" {
                    return Err(HandlerError::new("broken"));
                }
                noted.add(format!("{listener} {}", event.number));
                Ok(())
            }
        })
        .on_error(tries(1))
        .await
        .unwrap();
    }
    for number in 0..letters {
        order(&bus, if number % 3 == 1 { "bad" } else { "anna" }, number).await;
        // One after the other: where order is by key, letters of two keys have the order of their failures.
        bus.wait_until_idle().await.unwrap();
    }
    (bus, notes, broken)
}

/// Whether the transport can remove single letters. One that cannot says so, before anything is handled.
async fn can_remove(bus: &Bus) -> bool {
    match bus.admin().handle_dead_letters("watch", 0).await {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            false
        }
    }
}

fn numbers(letters: &[DeadLetter]) -> Vec<String> {
    let number = |letter: &DeadLetter| letter.event.fields.get("number").unwrap().to_vec();
    letters.iter().map(|letter| String::from_utf8(number(letter)).unwrap()).collect()
}

async fn they_are_read_page_by_page(place: Place) {
    let (bus, ..) = broken(&place, 5).await;
    if !can_remove(&bus).await {
        return;
    }
    let first = bus.admin().dead_letters("shop", "watch", 2).await.unwrap();
    assert_eq!(numbers(&first), ["0", "1"]);
    let second = bus.admin().dead_letters_after("shop", "watch", &first[1], 2).await.unwrap();
    assert_eq!(numbers(&second), ["2", "3"]);
    // A page goes on where the last one ended, also if that letter is gone.
    bus.admin().remove_dead_letters("shop", "watch", &second[1..]).await.unwrap();
    let third = bus.admin().dead_letters_after("shop", "watch", &second[1], 2).await.unwrap();
    assert_eq!(numbers(&third), ["4"]);
    assert!(
        bus.admin().dead_letters_after("shop", "watch", &third[0], 2).await.unwrap().is_empty()
    );
}

async fn they_are_removed_by_hand(place: Place) {
    let (bus, ..) = broken(&place, 4).await;
    if !can_remove(&bus).await {
        return;
    }
    let letters = bus.admin().dead_letters("shop", "watch", 10).await.unwrap();
    assert_eq!(bus.admin().remove_dead_letters("shop", "watch", &letters[1..3]).await.unwrap(), 2);
    assert_eq!(bus.admin().remove_dead_letters("shop", "watch", &letters[1..3]).await.unwrap(), 0);
    let left = bus.admin().dead_letters("shop", "watch", 10).await.unwrap();
    assert_eq!(numbers(&left), ["0", "3"]);
    let other = bus.admin().dead_letters("shop", "other", 10).await.unwrap();
    assert_eq!(other.len(), 4, "those of the other listener are its own");
}

async fn one_is_handled_again_by_its_listener_alone(place: Place) {
    let (bus, notes, broken) = broken(&place, 3).await;
    if !can_remove(&bus).await {
        return;
    }
    let letters = bus.admin().dead_letters("shop", "watch", 10).await.unwrap();
    let error = bus.admin().handle_dead_letter("watch", &letters[2]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote, "{error}");
    assert!(error.to_string().contains("broken"), "{error}");
    broken.store(false, Ordering::SeqCst);
    bus.admin().handle_dead_letter("watch", &letters[2]).await.unwrap();
    bus.wait_until_idle().await.unwrap();
    assert_eq!(notes.all(), ["watch 2"]);
    assert_eq!(numbers(&bus.admin().dead_letters("shop", "watch", 10).await.unwrap()), ["0", "1"]);
    assert_eq!(bus.admin().dead_letters("shop", "other", 10).await.unwrap().len(), 3);
}

async fn all_are_handled_again_and_those_that_fail_stay(place: Place) {
    // More than a page of them.
    let (bus, notes, broken) = broken(&place, 130).await;
    if !can_remove(&bus).await {
        return;
    }
    broken.store(false, Ordering::SeqCst);
    let some = bus.admin().handle_dead_letters("watch", 3).await.unwrap();
    assert_eq!((some.handled, some.failed), (2, 1));
    let all = bus.admin().handle_dead_letters("watch", 1000).await.unwrap();
    assert_eq!((all.handled, all.failed), (85, 43));
    let expected: Vec<_> =
        (0..130).filter(|n| n % 3 != 1).map(|number| format!("watch {number}")).collect();
    assert_eq!(notes.all(), expected, "oldest first, each once");
    let left = bus.admin().dead_letters("shop", "watch", 1000).await.unwrap();
    assert_eq!(left.len(), 43);
    assert!(left.iter().all(|letter| letter.reason == "broken" && letter.attempts == 1));
}

async fn a_batch_listener_replays_too(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (notes, broken) = (Notes::default(), Arc::new(AtomicBool::new(true)));
    let (noted, is_broken) = (notes.clone(), Arc::clone(&broken));
    bus.listen_in_batches("watch", move |events: Vec<Ordered>| {
        let (noted, is_broken) = (noted.clone(), Arc::clone(&is_broken));
        async move {
            if is_broken.load(Ordering::SeqCst) {
                return Err(HandlerError::new("broken"));
            }
            noted.add(format!("{} of {}", events[0].number, events.len()));
            Ok(())
        }
    })
    .on_error(tries(1))
    .await
    .unwrap();
    if !can_remove(&bus).await {
        return;
    }
    for number in 0..2 {
        order(&bus, "anna", number).await;
    }
    bus.wait_until_idle().await.unwrap();
    broken.store(false, Ordering::SeqCst);
    let replayed = bus.admin().handle_dead_letters("watch", 10).await.unwrap();
    assert_eq!((replayed.handled, replayed.failed), (2, 0));
    assert_eq!(notes.all(), ["0 of 1", "1 of 1"]);
}

async fn they_go_back_to_their_listener_from_another_process(place: Place) {
    let (bus, notes, broken) = broken(&place, 3).await;
    let tool = place.bus("tool").await;
    register(&tool).await;
    let letters = tool.admin().dead_letters("shop", "watch", 10).await.unwrap();
    broken.store(false, Ordering::SeqCst);
    assert_eq!(tool.admin().requeue_dead_letters("shop", "watch", &letters).await.unwrap(), 3);
    eventually("two are handled", async || notes.all().len() == 2).await;
    let mut handled = notes.all();
    handled.sort_unstable();
    assert_eq!(handled, ["watch 0", "watch 2"], "by that listener alone");
    // The one that fails again is a dead letter again, with its tries counted anew.
    eventually("one failed again", async || {
        let letters = bus.admin().dead_letters("shop", "watch", 10).await.unwrap();
        numbers(&letters) == ["1"] && letters[0].attempts == 1
    })
    .await;
    assert_eq!(
        tool.admin().requeue_dead_letters("shop", "watch", &letters).await.unwrap(),
        0,
        "gone"
    );
    assert_eq!(bus.admin().dead_letters("shop", "other", 10).await.unwrap().len(), 3);
}

async fn what_cannot_be_replayed_is_said(place: Place) {
    let (bus, ..) = broken(&place, 1).await;
    if !can_remove(&bus).await {
        return;
    }
    let letters = bus.admin().dead_letters("shop", "watch", 10).await.unwrap();
    let error = bus.admin().handle_dead_letters("wach", 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("Did you mean `watch`?"), "{error}");
    let error = bus.admin().handle_dead_letter("other", &letters[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let stranger = place.bus("stranger").await;
    let error = stranger.admin().handle_dead_letter("watch", &letters[0]).await.unwrap_err();
    assert!(error.to_string().contains("no listener of this name"), "{error}");
    let wrong = DeadLetter { id: "what?".into(), ..letters[0].clone() };
    let error = bus.admin().dead_letters_after("shop", "watch", &wrong, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

async fn a_group_has_only_its_own_though_another_s_name_ends_like_it(place: Place) {
    let shop = place.bus("shop").await;
    register(&shop).await;
    let mut buses = Vec::new();
    for (service, customer) in [("mail", "anna"), ("hot-mail", "ben")] {
        let bus = place.bus(service).await;
        bus.listen("welcome", move |event: Ordered| async move {
            if event.customer == customer {
                return Err(HandlerError::permanent("not yet"));
            }
            Ok(())
        })
        .await
        .unwrap();
        buses.push(bus);
    }
    for (number, customer) in ["anna", "ben", "ben"].into_iter().enumerate() {
        order(&shop, customer, u32::try_from(number).unwrap()).await;
    }
    let [mail, hot_mail] = &buses[..] else { panic!() };
    mail.wait_until_idle().await.unwrap();
    hot_mail.wait_until_idle().await.unwrap();
    let count = async |service: &str| {
        let letters = shop.admin().dead_letters(service, "welcome", 10).await.unwrap();
        for letter in &letters {
            assert_eq!(letter.group, lightbus::admin::GroupSpec::new(service, "welcome"));
        }
        letters.len()
    };
    assert_eq!((count("mail").await, count("hot-mail").await), (1, 2));
    // The other's letters are neither handled here nor removed, although the names end alike.
    let theirs = shop.admin().dead_letters("hot-mail", "welcome", 1).await.unwrap();
    let error = mail.admin().handle_dead_letter("welcome", &theirs[0]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("hot-mail-welcome"), "{error}");
    assert_eq!((count("mail").await, count("hot-mail").await), (1, 2));
}
