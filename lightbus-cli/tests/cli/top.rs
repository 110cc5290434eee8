//! `lightbus top` without a terminal: what it reports on each transport, and that it leaves nothing behind.

use std::time::Duration;

use lightbus::{OnError, RetryPolicy, prelude::*};
use serde_json::Value;

use super::{AuthApi, AuthClient, Place, Program, Service, Tool, UserRegistered};
use lightbus_tests::eventually;

on_shared_transports!(
    a_sample_tells_who_does_what_how_fast_and_what_waits,
    without_plugins_it_says_how_to_see_more,
);

/// A process that reports its state and metrics, and a listener that cannot handle events.
pub(super) async fn busy(place: &Place) -> Bus {
    let builder = place.builder("auth", "", |config| {
        config.plugins.internal_state.enabled = true;
        config.plugins.internal_state.ping_interval = Duration::from_millis(200);
        config.plugins.internal_metrics.enabled = true;
    });
    let bus =
        lightbus_tests::soon("connecting", builder.process_name("web-1").connect()).await.unwrap();
    bus.serve(AuthApi(Service)).await.unwrap();
    bus.listen("welcome", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    bus.listen("fails", |_: UserRegistered| async { Err(std::io::Error::other("no").into()) })
        .on_error(OnError::Retry(RetryPolicy::attempts(2).breaker(false)))
        .await
        .unwrap();
    drop(tokio::spawn(bus.clone().run()));
    bus
}

pub(super) async fn work(bus: &Bus) {
    let auth = AuthClient::new(bus);
    auth.check_password("admin", "secret").await.unwrap();
    auth.boom().await.unwrap_err();
    bus.fire(UserRegistered { username: "a".into(), age: 1 }).await.unwrap();
}

fn row<'a>(sample: &'a Value, table: &str, key: &str, name: &str) -> &'a Value {
    let rows = sample[table].as_array().unwrap();
    rows.iter().find(|row| row[key] == name).unwrap_or(&Value::Null)
}

fn is_more(value: &Value) -> bool {
    value.as_f64().is_some_and(|number| number > 0.0)
}

fn interrupt(top: Program) -> Option<i32> {
    top.signal("INT");
    top.finish().0
}

async fn a_sample_tells_who_does_what_how_fast_and_what_waits(place: Place) {
    let (bus, tool) = (busy(&place).await, Tool::at(&place));
    let mut top = Program::start(&mut tool.command(&["top", "--json", "--interval", "0.3"]));
    let mut last = Value::Null;
    let seen = async || {
        work(&bus).await;
        let sample: Value = serde_json::from_str(&top.wait_for("\"time\"")).unwrap();
        let process = row(&sample, "processes", "process", "web-1");
        let calls = row(&sample, "procedures", "procedure", "auth.check_password");
        let boom = row(&sample, "procedures", "procedure", "auth.boom");
        let event = row(&sample, "events", "event", "auth.user_registered");
        let (welcome, fails) = (
            row(&sample, "groups", "group", "auth-welcome"),
            row(&sample, "groups", "group", "auth-fails"),
        );
        let all = process["apis"] == serde_json::json!(["auth"])
            && process["listens_to"] == serde_json::json!(["auth.user_registered"])
            && is_more(&calls["calls_per_second"])
            && calls["failed_per_second"] == 0.0
            && calls["p95_ms"].is_number()
            && calls["caller_p95_ms"].is_number()
            && is_more(&boom["failed_per_second"])
            && is_more(&event["fired_per_second"])
            && is_more(&event["handled_per_second"])
            && is_more(&event["tried_again_per_second"])
            && row(&sample, "apis", "api", "auth")["processes"] == 1
            && welcome["dead_letters"].as_u64() == Some(0)
            && fails["pending"].is_number();
        last = sample;
        all
    };
    eventually("everything is reported", seen).await;
    assert_eq!(last["notes"], serde_json::json!([]), "{last}");
    assert_eq!(interrupt(top), Some(0));
    if let Place::Redis(server) = &place {
        for api in ["internal.state", "internal.metrics"] {
            let groups = server.command(&["XINFO", "GROUPS", &format!("{api}.*:stream")]);
            assert_eq!(groups, "", "it left a consumer group");
        }
    }
    let working = {
        let bus = bus.clone();
        tokio::spawn(async move {
            loop {
                work(&bus).await;
            }
        })
    };
    // Dead letters are counted at the start, and rarely later.
    let counted = async || {
        let json = tool.run(&["top", "--json", "--count", "1", "--interval", "0.5"]).await;
        let sample: Value = serde_json::from_str(json.out().trim()).unwrap();
        is_more(&row(&sample, "groups", "group", "auth-fails")["dead_letters"])
    };
    eventually("the dead letters are counted", counted).await;
    let text = async || {
        let text = tool.run(&["top", "--once", "--interval", "0.5"]).await;
        assert_eq!(text.code(), 0, "{}", text.err());
        let parts = ["web-1", "auth.check_password", "auth.user_registered", "auth-fails"];
        parts.iter().all(|part| text.out().contains(part))
    };
    eventually("the sample as text has everything", text).await;
    working.abort();
    bus.shut_down();
}

async fn without_plugins_it_says_how_to_see_more(place: Place) {
    let (bus, tool) = (place.bus("auth").await, Tool::at(&place));
    bus.serve(AuthApi(Service)).await.unwrap();
    bus.listen("welcome", |_: UserRegistered| async { Ok(()) }).await.unwrap();
    bus.fire(UserRegistered { username: "a".into(), age: 1 }).await.unwrap();
    let done = tool.run(&["top", "--once", "--interval", "0.1"]).await;
    assert_eq!(done.code(), 0, "{}", done.err());
    for part in ["internal_state: { enabled: true }", "internal_metrics: { enabled: true }", "auth"]
    {
        assert!(done.out().contains(part), "{part}: {}", done.out());
    }
    if matches!(place, Place::Redis(_)) {
        assert!(done.out().contains("auth-welcome"), "the broker's figures: {}", done.out());
    }
}

#[tokio::test]
async fn a_broker_that_is_away_ends_it() {
    let url = format!("redis://127.0.0.1:{}/0", lightbus_tests::free_port());
    let tool = Tool::new(&lightbus_tests::redis_yaml(&url, ""));
    let done = tool.run(&["top", "--once"]).await;
    assert_eq!((done.code(), done.out().as_str()), (3, ""), "{}", done.err());
}
