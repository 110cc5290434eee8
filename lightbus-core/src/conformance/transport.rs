//! What all transports have in common: opening, closing, what they declare, what they say.

use std::time::{Duration, SystemTime};

use super::{
    Harness, Transports,
    kit::{Bus, call_id, fails, nothing, ok, result_of, serving, within},
};
use crate::{
    Error, ErrorKind, Name, Result, RpcMessage, Subscription, Transport,
    transport::{EventSelector, HistorySpec, ListenSpec, ServeSpec, Start},
};

fn all(transports: &Transports) -> [&dyn Transport; 4] {
    [&*transports.rpc, &*transports.result, &*transports.event, &*transports.schema]
}

/// A transport declares what the harness expects, opened or not, and says which broker it speaks to.
pub async fn capabilities_are_as_declared(harness: &dyn Harness) {
    let transports = harness.connect().await;
    assert_eq!(transports.event.capabilities(), harness.capabilities());
    let before = all(&transports).map(Transport::capabilities);
    ok("opening", transports.open()).await;
    assert_eq!(all(&transports).map(Transport::capabilities), before, "the same answer always");
    for transport in all(&transports) {
        assert!(!transport.name().is_empty() && !transport.broker().is_empty());
    }
}

/// What a transport does not declare answers `Unsupported`, and is not silently ignored. What it
/// declares answers.
pub async fn what_is_absent_is_unsupported(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let has = harness.capabilities();
    let events = EventSelector::all(Name::clone(&api));

    let spec = HistorySpec { events: events.clone(), from: None, until: None };
    let history = within("history", process.event.history(spec)).await;
    check("history", has.history, history);

    let group = bus.listener(&api, "lag").group;
    check("lag", has.lag, within("lag", process.event.lag(&group, &[events])).await);

    check("backlog", has.backlog, within("backlog", process.rpc.backlog(&api)).await);

    let letters = async { process.event.require_dead_letters()?.list(&group, None, 10).await };
    check("dead letters", has.dead_letters, within("dead letters", letters).await);
    assert_eq!(process.event.dead_letters().is_some(), has.dead_letters, "as the capability says");

    for (n, start) in [Start::Earliest, Start::Since(SystemTime::now())].into_iter().enumerate() {
        let spec = ListenSpec { start, ..bus.listener(&api, &format!("start-{n}")) };
        check(
            "a start in the past",
            has.replay,
            within("replay", process.event.listen(spec)).await,
        );
    }
}

fn check<T>(what: &str, declared: bool, result: Result<T>) {
    match (declared, result) {
        (true, Ok(_)) => {}
        (true, Err(error)) => panic!("{what} is declared, but: {error:?}"),
        (false, Ok(_)) => panic!("{what} is not declared, so it must answer `Unsupported`"),
        (false, Err(error)) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error:?}");
            assert!(!error.is_temporary(), "{what}: trying again is useless");
        }
    }
}

/// Listening to nothing and serving nothing are refused.
pub async fn empty_lists_are_refused(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let process = bus.process().await;
    let spec = ListenSpec { events: Vec::new(), ..bus.listener(&bus.name("orders"), "none") };
    fails("listening to nothing", ErrorKind::Config, process.event.listen(spec)).await;
    let spec = ServeSpec { apis: Vec::new(), flow: super::kit::flow(1, 1) };
    fails("serving nothing", ErrorKind::Config, process.rpc.serve(spec)).await;
}

/// An open transport may be opened again, and goes on working.
pub async fn opening_twice_is_fine(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let process = bus.process().await;
    let _worker = process.answer_all(process.serve(serving(&api)).await);
    ok("opening again", process.open()).await;
    let pending = process.call(&bus, &api, 1).await;
    ok("opening again", process.open()).await;
    assert_eq!(super::kit::value(pending).await, "1");
}

/// Closing twice is fine, opened or not, also while subscriptions stand.
pub async fn closing_twice_is_fine(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let unopened = harness.connect().await;
    ok("closing what was never opened", unopened.close()).await;

    let process = bus.process().await;
    let events = process.listen(bus.listener(&api, "mail")).await;
    let calls = process.serve(serving(&api)).await;
    let pending = ok("expecting", process.result.expect(&call_id(&api, 1))).await;
    process.close().await;
    process.close().await;
    // What has ended may be closed too: whatever it says, it says it soon.
    let _ = within("closing a listener that has ended", events.close()).await;
    let _ = within("closing a worker that has ended", calls.close()).await;
    drop(pending);
    process.close().await;
}

/// Every operation on a closed transport fails with `Closed`.
pub async fn a_closed_transport_says_so(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let process = bus.process().await;
    let pending = ok("expecting", process.result.expect(&bus.name("call"))).await;
    let path = pending.return_path().clone();
    process.close().await;
    for (what, error) in errors_of_all(&bus, &process, &path).await {
        assert_eq!(error.kind(), ErrorKind::Closed, "{what}: {error:?}");
        assert!(!error.is_temporary(), "{what}: trying again is useless");
    }
    for transport in all(&process) {
        let error = within("opening", transport.open()).await.expect_err("it was closed");
        assert_eq!(error.kind(), ErrorKind::Closed, "opening: {error:?}");
    }
}

/// Tries each operation, all of which must fail.
async fn errors_of_all(
    bus: &Bus<'_>,
    transports: &Transports,
    path: &crate::ReturnPath,
) -> Vec<(&'static str, Error)> {
    let api = bus.name("orders");
    let Transports { rpc, result, event, schema } = transports;
    let call = RpcMessage {
        deadline: tokio::time::Instant::now() + Duration::from_secs(3),
        ..bus.call(&api, 1, path)
    };
    let document = serde_json::value::to_raw_value("schema").expect("JSON");
    let answer = result_of(&call, "1");
    let sent = [bus.event(&api, 1)];
    let ttl = Duration::from_secs(60);
    let mut errors = Vec::new();
    let mut note = |what, failed: Option<Error>| {
        errors.push((what, failed.unwrap_or_else(|| panic!("{what} must fail"))));
    };
    note("calling", within("calling", rpc.call(call)).await.err());
    note("serving", within("serving", rpc.serve(serving(&api))).await.err());
    note("replying", within("replying", result.reply(path, answer)).await.err());
    note("firing", within("firing", event.send(&sent)).await.err());
    let spec = bus.listener(&api, "mail");
    note("listening", within("listening", event.listen(spec)).await.err());
    note("storing", within("storing", schema.store(&api, &document, ttl)).await.err());
    note("pinging", within("pinging", schema.ping(&api, ttl)).await.err());
    note("loading", within("loading", schema.load()).await.err());
    errors
}

/// Closing a transport ends its subscriptions, and with `Closed` the calls that wait for results.
pub async fn closing_ends_what_waits(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut events = process.listen(bus.listener(&api, "mail")).await;
    let mut calls = process.serve(serving(&api)).await;
    let pending = ok("expecting", process.result.expect(&call_id(&api, 1))).await;
    nothing("nothing was sent", &mut events).await;
    process.close().await;
    fails("waiting for a result", ErrorKind::Closed, pending).await;
    fails("expecting a result", ErrorKind::Closed, process.result.expect(&call_id(&api, 2))).await;
    ends(&mut events).await;
    ends(&mut calls).await;
}

async fn ends<M: std::fmt::Debug + Send + Sync + 'static>(subscription: &mut Subscription<M>) {
    match within("the end of the subscription", subscription.next()).await {
        None => return,
        Some(Err(error)) => assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}"),
        Some(Ok(delivery)) => panic!("a delivery after the end: {delivery:?}"),
    }
    let after = within("the end of the subscription", subscription.next()).await;
    assert!(after.is_none(), "after the error it ends: {after:?}");
}

/// Errors say why an operation failed, in one line. Its name is left to the bus.
pub async fn errors_say_why(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let process = bus.process().await;
    let pending = ok("expecting", process.result.expect(&bus.name("call"))).await;
    let path = pending.return_path().clone();
    let spec = ListenSpec { events: Vec::new(), ..bus.listener(&bus.name("orders"), "none") };
    let mut errors =
        vec![("listening", within("listening", process.event.listen(spec)).await.err())];
    process.close().await;
    let closed = errors_of_all(&bus, &process, &path).await;
    errors.extend(closed.into_iter().map(|(what, error)| (what, Some(error))));
    let expect = within("expecting", process.result.expect(&bus.name("other"))).await;
    errors.push(("expecting", expect.err()));
    for (what, error) in errors {
        let error = error.unwrap_or_else(|| panic!("{what} must fail"));
        assert!(!error.message().is_empty(), "{what}: no reason in `{error}`");
        assert!(error.to_string().lines().count() == 1, "{what}: more than a line: {error}");
    }
}

/// No `Debug` and no error shows a password of the configuration.
pub async fn secrets_stay_secret(harness: &dyn Harness) {
    const PASSWORD: &str = "correct-horse-battery-staple";
    let nowhere = harness.nowhere(PASSWORD).await;
    let Some(transports) = nowhere.or_say("connecting to where no broker is") else { return };
    let mut texts = vec![format!("{transports:?} {transports:#?}")];
    for transport in all(&transports) {
        texts.push(transport.broker());
        if let Err(error) = within("opening", transport.open()).await {
            texts.push(format!("{error} {error:?} {error:#?}"));
        }
    }
    let percent: String = PASSWORD.replace('-', "%2D");
    for text in texts {
        assert!(!text.contains(PASSWORD) && !text.contains(&percent), "a password in: {text}");
    }
}

/// Without a broker, opening fails soon, as `Unavailable` that may be retried; so do operations.
pub async fn open_without_a_broker_is_unavailable(harness: &dyn Harness) {
    let nowhere = harness.nowhere("password").await;
    let Some(transports) = nowhere.or_say("connecting to where no broker is") else { return };
    for transport in all(&transports) {
        let error = within("opening", transport.open()).await.expect_err("there is no broker");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.is_temporary(), "it may be retried: {error:?}");
        assert!(!error.operation().is_empty(), "no operation in `{error}`");
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let Transports { rpc, event, schema, .. } = &transports;
    let document = serde_json::value::to_raw_value("schema").expect("JSON");
    let sent = [bus.event(&api, 1)];
    let failed = [
        ("serving", within("serving", rpc.serve(serving(&api))).await.err()),
        ("listening", within("listening", event.listen(bus.listener(&api, "mail"))).await.err()),
        ("firing", within("firing", event.send(&sent)).await.err()),
        (
            "storing",
            within("storing", schema.store(&api, &document, Duration::from_secs(60))).await.err(),
        ),
        ("loading", within("loading", schema.load()).await.err()),
    ];
    for (what, error) in failed {
        let error = error.unwrap_or_else(|| panic!("{what} must fail without a broker"));
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error:?}");
        assert!(error.is_temporary(), "{what}: it may be retried");
    }
    // A call has a time limit of its own.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
    let path = crate::ReturnPath::new("nowhere");
    let call = RpcMessage { deadline, ..bus.call(&api, 1, &path) };
    let error = within("calling", rpc.call(call)).await.expect_err("there is no broker");
    let kind = error.kind();
    assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Timeout), "calling: {error:?}");
    ok("closing", transports.close()).await;
}
