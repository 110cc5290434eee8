//! Durations and sizes that mean "no limit", and nonsense: they are bounded, and panic nothing.

use std::time::Duration;

use lightbus::{
    RetryPolicy,
    config::{ApiConfig, Config},
    prelude::*,
};
use lightbus_tests::{Place, eventually, on_every_transport, soon};
use tokio::sync::mpsc;

#[lightbus::api(name = "clock", events(Struck))]
pub trait Clock {
    async fn hour(&self) -> u64;
}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Struck {
    pub hour: u64,
}

struct Service;

impl Clock for Service {
    async fn hour(&self) -> u64 {
        7
    }
}

on_every_transport!(limits_in_code_may_be_boundless, limits_in_a_file_may_be_boundless);

async fn limits_in_code_may_be_boundless(place: Place) {
    let builder = place.builder("clock", "", |config| {
        config.bus.schema.ttl = Duration::MAX;
        let api: &mut ApiConfig = config.apis.get_mut("default").unwrap();
        api.rpc_timeout = Duration::MAX;
        api.event_fire_timeout = Duration::MAX;
        api.event_listener_setup_timeout = Duration::MAX;
    });
    let bus = soon("connecting", builder.drain_timeout(Duration::MAX).connect()).await.unwrap();
    bus.serve(ClockApi(Service)).concurrency(usize::MAX).timeout(Duration::MAX).await.unwrap();
    let clock = ClockClient::new(&bus);
    assert_eq!(soon("the file's limit", clock.hour().into_future()).await.unwrap(), 7);
    let call = clock.hour().timeout(Duration::MAX).into_future();
    assert_eq!(soon("the call's own", call).await.unwrap(), 7);

    let (heard, mut hours) = mpsc::channel(8);
    let forever = RetryPolicy::attempts(u32::MAX).backoff(Duration::ZERO, Duration::MAX);
    let single = heard.clone();
    bus.listen("hours", move |event: Struck| {
        let heard = single.clone();
        async move {
            heard.send(vec![event.hour]).await?;
            Ok(())
        }
    })
    .concurrency(usize::MAX)
    .prefetch(usize::MAX)
    .timeout(Duration::MAX)
    .on_error(OnError::Retry(RetryPolicy { longest_outage: Duration::MAX, ..forever }))
    .await
    .unwrap();
    bus.listen_in_batches("pairs", move |events: Vec<Struck>| {
        let heard = heard.clone();
        async move {
            heard.send(events.iter().map(|event| event.hour).collect()).await?;
            Ok(())
        }
    })
    .batch(2, Duration::MAX)
    .timeout(Duration::MAX)
    .prefetch(usize::MAX)
    .await
    .unwrap();
    bus.listen_in_batches("never full", |_: Vec<Struck>| async { Ok(()) })
        .batch(usize::MAX, Duration::MAX)
        .await
        .unwrap();
    let never = bus.every("never", Duration::MAX, |_| async { Ok(()) });
    never.immediately().timeout(Duration::MAX).await.unwrap();
    let running = tokio::spawn(bus.clone().run());
    for hour in [1, 2] {
        soon("firing", bus.fire(Struck { hour }).into_future()).await.unwrap();
    }
    let mut handled = Vec::new();
    for _ in 0..3 {
        let mut hours = soon("handling", hours.recv()).await.unwrap();
        // Events without a key may change places.
        hours.sort_unstable();
        handled.push(hours);
    }
    handled.sort();
    assert_eq!(handled, [vec![1], vec![1, 2], vec![2]]);
    eventually("the task has run", async || {
        bus.health().parts.iter().any(|part| &*part.name == "never" && part.finished == 1)
    })
    .await;
    let health = bus.health();
    assert!(health.healthy && health.parts.iter().all(|part| part.restarts == 0), "{health:?}");
    bus.shut_down();
    soon("draining", running).await.unwrap().unwrap();
}

/// Every key of the configuration that is a length of time or a number without a bound of its own.
async fn limits_in_a_file_may_be_boundless(place: Place) {
    const SETTINGS: [&str; 4] =
        ["rpc_timeout", "event_fire_timeout", "event_listener_setup_timeout", "procedure_timeout"];
    const OF_LISTENERS: &str = "listeners:\n  default:\n    timeout: LIMIT\n    retry: { first_wait: 0.01, longest_wait: LIMIT, longest_outage: LIMIT, attempts: 4294967295, deliveries: 4294967295 }\n";
    for limit in ["1e19", "1e300", "1.7e308"] {
        let mut yaml = place.yaml("");
        for setting in SETTINGS {
            yaml.push_str(&format!("    {setting}: {limit}\n"));
        }
        yaml.push_str("    max_message_size: 18446744073709551615\n");
        yaml.push_str(&OF_LISTENERS.replace("LIMIT", limit));
        let config = Config::from_yaml(&yaml).unwrap();
        let builder = place.builder("clock", "", |changed| {
            let bus = std::mem::replace(changed, config).bus;
            changed.bus = bus;
            changed.bus.max_calls_in_flight = u32::MAX.try_into().unwrap();
            changed.bus.max_calls_at_work = u32::MAX.try_into().unwrap();
        });
        let bus = soon("connecting", builder.connect()).await.unwrap();
        bus.serve(ClockApi(Service)).await.unwrap();
        let hour = soon(limit, ClockClient::new(&bus).hour().into_future()).await;
        assert_eq!(hour.unwrap(), 7);
        let (heard, mut hours) = mpsc::channel(1);
        bus.listen("hours", move |event: Struck| {
            let heard = heard.clone();
            async move { Ok(heard.send(event.hour).await?) }
        })
        .await
        .unwrap();
        soon("firing", bus.fire(Struck { hour: 3 }).into_future()).await.unwrap();
        assert_eq!(soon("handling", hours.recv()).await, Some(3));
        soon("closing", bus.close()).await.unwrap();
    }
}
