//! Names that would make two listeners share events without meaning to: services and listeners with one
//! joined name, and processes with one configured name.

use lightbus::{ErrorKind, prelude::*};
use lightbus_tests::{Place, eventually, on_every_transport, redis_yaml, unique};

use crate::log::log;

use super::contracts::Shipped;

on_every_transport!(
    groups_of_one_joined_name_are_refused,
    two_buses_with_one_process_name_are_refused,
);

async fn listen(bus: &Bus, name: &str) -> lightbus::Result<()> {
    bus.listen(name, |_: Shipped| async { Ok(()) }).await
}

async fn groups_of_one_joined_name_are_refused(place: Place) {
    let (first, second) = (place.bus("mail-order").await, place.bus("mail").await);
    listen(&first, "confirm").await.unwrap();
    for _ in 0..2 {
        let error = listen(&second, "order-confirm").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        let text = error.to_string();
        for part in [
            "listening as order-confirm: the consumer group `mail-order-confirm`",
            "the service `mail` with the listener `order-confirm`",
            "the service `mail-order` with the listener `confirm`",
            "Rename the listener",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    // Others are free, and so is this one when it is no longer listened as.
    listen(&second, "confirm").await.unwrap();
    if !matches!(place, Place::Memory(_)) {
        first.close().await.unwrap();
        listen(&second, "order-confirm").await.unwrap();
    }
}

async fn two_buses_with_one_process_name_are_refused(place: Place) {
    let mut buses = Vec::new();
    for process in ["one", "one", "two"] {
        let builder = place.builder("mail", "", |_| ()).process_name(process);
        buses.push(builder.connect().await.unwrap());
    }
    listen(&buses[0], "watch").await.unwrap();
    listen(&buses[2], "watch").await.unwrap();
    let second = listen(&buses[1], "watch").await;
    if matches!(place, Place::Memory(_)) {
        // In memory, a process's name is nobody's identity.
        return second.unwrap();
    }
    let error = second.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains("the same process name `one`"), "{error}");
    listen(&buses[1], "other").await.unwrap();
    // Its successor may have its name.
    buses[0].close().await.unwrap();
    listen(&buses[1], "watch").await.unwrap();
}

/// Two programs, as far as the bus can tell: their configurations differ.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_shows_to_other_programs_whose_a_group_is() {
    let Some(place) = Place::redis() else { return };
    let Place::Redis(server) = &place else { unreachable!() };
    let log = log();
    let connect = async |service: &str, process: &str, length: u32| {
        let event = format!(", reclaim_interval: 1, max_stream_length: {length}");
        let config = lightbus::config::Config::from_yaml(&redis_yaml(&server.url(), &event));
        let builder = Bus::builder().config(config.unwrap()).service_name(service);
        builder.process_name(process).connect().await.unwrap()
    };
    let confirm = unique("confirm");
    let warned = |what: &str| {
        log().lines().filter(|line| line.contains(&confirm) && line.contains(what)).count()
    };
    let first = connect("mail-order", "one", 1000).await;
    listen(&first, &confirm).await.unwrap();
    let second = connect("mail", "two", 2000).await;
    listen(&second, &format!("order-{confirm}")).await.unwrap();
    let group = "another service and listener have a consumer group of the same name";
    eventually("the second group is seen", async || warned(group) == 1).await;

    let process = "another process listens under the same process name";
    assert_eq!(warned(process), 0);
    let twin = connect("mail-order", "one", 3000).await;
    listen(&twin, &confirm).await.unwrap();
    eventually("the twin is seen", async || warned(process) == 1).await;
    assert_eq!(warned(group), 1, "each says it once");
}
