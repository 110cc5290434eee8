//! The same tests on a broker, and what keeps them apart there.

use std::{process::Command, time::Duration};

use lightbus::{
    config::Config,
    prelude::*,
    testing::{CONFIG_VARIABLE, TestBus},
};

use lightbus_tests::{RedisServer, config_file, redis_yaml};

use super::contracts::*;

#[test]
fn all_of_these_tests_pass_on_redis_too() {
    if std::env::var(CONFIG_VARIABLE).is_ok() {
        return;
    }
    let Some(redis) = RedisServer::start_durable() else { return };
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["testing_kit::", "--skip", "testing_kit::broker::"])
        .env(CONFIG_VARIABLE, config_file(&redis))
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}");
    let keys = redis.command(&["--scan"]);
    assert!(keys.lines().any(|key| key.contains("auth")), "it was used: {keys}");
    // Results find their callers by ids; the set has the names of all APIs.
    let shared = |key: &&str| key.contains("result") || *key == "schemas";
    let strays: Vec<_> =
        keys.lines().filter(|key| !key.contains("test-") && !shared(key)).collect();
    assert!(strays.is_empty(), "not a test's own: {strays:?}");
}

#[tokio::test(start_paused = true)]
async fn tests_on_one_broker_do_not_meet_unless_they_want_to() {
    let Some(redis) = RedisServer::start_durable() else { return };
    let config = Config::from_yaml(&redis_yaml(&redis.url(), "")).unwrap();
    let isolated = || TestBus::builder().broker(config.clone()).start();
    let (one, other) = (isolated().await.unwrap(), isolated().await.unwrap());
    assert!(!one.is_in_memory());
    let began = tokio::time::Instant::now();
    std::thread::sleep(Duration::from_millis(1));
    assert!(!began.elapsed().is_zero(), "time runs, as the broker's does");

    let open = || TestBus::builder().broker(config.clone()).not_isolated().allow_unmocked().start();
    let (open, friend) = (open().await.unwrap(), open().await.unwrap());
    for test in [&one, &other, &open, &friend] {
        test.register(AuthClient::contract()).await.unwrap();
        test.listen("watch", |_: UserRegistered| async { Ok(()) })
            .start(Start::Earliest)
            .await
            .unwrap();
    }
    one.fire(sally()).await.unwrap();
    one.wait_until_idle().await.unwrap();
    assert_eq!(one.admin().lag("auth", "test", "watch").await.unwrap(), lightbus::Lag::default());
    let history = one.admin().history("auth.*", None, None).await.unwrap();
    let events: Vec<_> = futures_util::StreamExt::collect(history).await;
    assert_eq!(&*events[0].as_ref().unwrap().api, "auth", "nobody sees the prefix");
    let history = other.admin().history("auth.*", None, None).await.unwrap();
    assert!(futures_util::StreamExt::collect::<Vec<_>>(history).await.is_empty());
    assert_eq!(one.remote_apis().await.unwrap().len(), 1);

    open.fire(sally()).await.unwrap();
    let history = friend.admin().history("auth.*", None, None).await.unwrap();
    assert_eq!(futures_util::StreamExt::collect::<Vec<_>>(history).await.len(), 1);
}

#[tokio::test]
async fn a_test_on_a_broker_can_be_looked_into_as_a_service_can() {
    let Some(redis) = RedisServer::start() else { return };
    let config = Config::from_yaml(&redis_yaml(&redis.url(), "")).unwrap();
    let faults = lightbus::testing::Faults::seeded(1);
    let builder = TestBus::builder().broker(config);
    let test = builder.faults(faults).start().await.unwrap();
    test.register(AuthClient::contract()).await.unwrap();
    test.listen("watch", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    test.fire(sally()).await.unwrap();
    test.wait_until_idle().await.unwrap();

    let routes = test.admin().locate("auth", Some("user_registered")).await.unwrap();
    for route in &routes {
        let locations = route.locations.as_ref().unwrap_or_else(|| panic!("hidden: {route:?}"));
        if route.kind == "events" {
            let stream = &locations[0];
            assert!(stream.name.contains("test-"), "as it is on the broker: {stream:?}");
            assert!(stream.groups.iter().any(|group| group.name.ends_with("test-watch")));
        }
    }
    for diagnosis in test.admin().diagnose().await.unwrap() {
        assert!(diagnosis.findings.is_some_and(|findings| !findings.is_empty()));
    }
}
