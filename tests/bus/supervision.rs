//! A consumer that ended, or stands still although there is work, is restarted; health shows it.

use std::time::Duration;

use lightbus::{bus::Condition, prelude::*};
use lightbus_tests::scripted::{Act, Scripted};
use tokio::sync::mpsc;

#[lightbus::api(name = "clock", events(Struck))]
pub trait Clock {}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Struck {
    pub hour: u64,
}

async fn start(act: Act) -> (Bus, Scripted, mpsc::Receiver<u64>) {
    let scripted = Scripted::default();
    scripted.script.listen.will([act]);
    let bus = scripted.bus().await;
    bus.register(ClockClient::contract()).await.unwrap();
    let (heard, hours) = mpsc::channel(64);
    bus.listen("hours", move |event: Struck| {
        let heard = heard.clone();
        async move {
            heard.send(event.hour).await?;
            Ok(())
        }
    })
    .await
    .unwrap();
    (bus, scripted, hours)
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_stands_still_is_begun_anew() {
    let (bus, scripted, mut hours) = start(Act::Silence).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(scripted.script.listen.count(), 1, "nothing to do is no reason");
    assert!(bus.health().healthy);

    bus.fire(Struck { hour: 1 }).await.unwrap();
    let hour = tokio::time::timeout(Duration::from_secs(90), hours.recv()).await;
    assert_eq!(hour.expect("within a minute or so"), Some(1));
    assert_eq!(scripted.script.listen.count(), 2);
    let health = bus.health();
    assert!(health.healthy && health.parts[0].restarts == 1, "{health:?}");
    bus.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_transport_gave_up_is_begun_anew() {
    let (bus, scripted, mut hours) = start(Act::End).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let health = bus.health();
    assert!(!health.healthy, "{health:?}");
    assert_eq!(health.parts[0].condition, Condition::Restarting);
    assert!(health.parts[0].last_error.as_ref().unwrap().contains("the broker said nonsense"));

    bus.fire(Struck { hour: 1 }).await.unwrap();
    assert_eq!(hours.recv().await, Some(1));
    assert_eq!(scripted.script.listen.count(), 2);
    let health = bus.health();
    assert!(health.healthy && health.parts[0].restarts == 1, "{health:?}");
    assert_eq!(health.parts[0].last_error, None);
    bus.close().await.unwrap();
}
