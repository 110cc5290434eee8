//! Results: at most one for each call, to the one caller that waits.

use futures_util::future::join_all;

use super::{
    Harness,
    kit::{
        Bus, call_id, done, fails, flow, json_of_every_kind, next, ok, result_of, serving, value,
        within,
    },
};
use crate::{ErrorKind, Outcome, RemoteError, ReturnPath, transport::ServeSpec};

/// A result reaches the caller that waits for it, also when the worker is in another process, and
/// when it is there before the caller begins to wait.
pub async fn a_call_gets_its_result(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, worker) = (bus.process().await, bus.process().await);
    let mut calls = worker.serve(serving(&api)).await;
    for n in 0..3 {
        let pending = caller.call(&bus, &api, n).await;
        let call = next(&mut calls).await;
        assert_eq!(call.message.id, call_id(&api, n));
        worker.answer(&call.message).await;
        done(call).await;
        let result = ok("waiting for the result", pending).await;
        assert_eq!(result.rpc_id, call_id(&api, n), "the call that it answers");
        assert_eq!(result.body.expect("a value"), n.to_string());
    }
}

/// A thousand calls of two callers at the same time: each gets the result of its own.
pub async fn a_thousand_calls_get_their_own_results(harness: &dyn Harness) {
    const CALLS: usize = 1000;
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let callers = [bus.process().await, bus.process().await];
    let workers = [bus.process().await, bus.process().await];
    let spec = || ServeSpec { flow: flow(50, 200), ..serving(&api) };
    let _workers = [
        workers[0].answer_all(workers[0].serve(spec()).await),
        workers[1].answer_all(workers[1].serve(spec()).await),
    ];
    let calls = (0..CALLS).map(|n| callers[n % 2].call(&bus, &api, n));
    let pending = within("sending the calls", join_all(calls)).await;
    let values = within("the results", join_all(pending.into_iter().map(value))).await;
    for (n, value) in values.into_iter().enumerate() {
        assert_eq!(value, n.to_string(), "the result of the call {n}");
    }
}

/// A result that comes when no caller waits any more is no error, and reaches no other caller; nor does a
/// second result of the same call.
pub async fn a_late_result_is_dropped(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, worker) = (bus.process().await, bus.process().await);
    let mut calls = worker.serve(serving(&api)).await;

    let given_up = caller.call(&bus, &api, 1).await;
    let waits = caller.call(&bus, &api, 2).await;
    drop(given_up);
    for _ in 0..2 {
        let call = next(&mut calls).await;
        worker.answer(&call.message).await;
        let second = worker.result.reply(&call.message.return_path, result_of(&call.message, "-1"));
        ok("replying a second time", second).await;
        done(call).await;
    }
    assert_eq!(value(waits).await, "2", "its own result, the first one");

    let after = caller.call(&bus, &api, 3).await;
    let call = next(&mut calls).await;
    worker.answer(&call.message).await;
    done(call).await;
    assert_eq!(value(after).await, "3");
}

/// A result for a call that no caller knows, to a caller that lives or that is gone, is no error and
/// disturbs no process.
pub async fn a_result_for_nobody_is_fine(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, gone, worker) = (bus.process().await, bus.process().await, bus.process().await);
    let mut calls = worker.serve(serving(&api)).await;
    let waits = caller.call(&bus, &api, 1).await;
    let call = next(&mut calls).await;

    let unknown = bus.call(&api, 99, waits.return_path());
    let result = result_of(&unknown, "99");
    ok("replying to an unknown call", worker.result.reply(waits.return_path(), result)).await;

    let path = ok("expecting", gone.result.expect(&call_id(&api, 98))).await.return_path().clone();
    gone.close().await;
    let result = result_of(&bus.call(&api, 98, &path), "98");
    ok("replying to a caller that is gone", worker.result.reply(&path, result)).await;

    worker.answer(&call.message).await;
    call.ack.settle_later(Outcome::Done);
    assert_eq!(value(waits).await, "1");
}

/// A return path of another transport is refused, with an error that shows it.
pub async fn a_foreign_return_path_is_malformed(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let process = bus.process().await;
    for path in ["", "nonsense", "carrier-pigeon://loft/7"] {
        let path = ReturnPath::new(path);
        let result = result_of(&bus.call(&bus.name("auth"), 1, &path), "1");
        let reply = process.result.reply(&path, result);
        let error = fails("replying to a foreign path", ErrorKind::Malformed, reply).await;
        assert!(!error.is_temporary(), "trying again is useless: {error:?}");
    }
}

/// A result that cannot be read fails the call that it names at once, and no other.
pub async fn a_malformed_result_fails_its_call(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, worker) = (bus.process().await, bus.process().await);
    let mut calls = worker.serve(serving(&api)).await;
    let first = caller.call(&bus, &api, 1).await;
    let malformed = harness.malformed_result(first.return_path(), &call_id(&api, 1)).await;
    if malformed.or_say("sending a malformed result").is_none() {
        return;
    }
    let other = caller.call(&bus, &api, 2).await;
    let error = fails("waiting for the result", ErrorKind::Malformed, first).await;
    assert!(error.message().contains("the result cannot be read"), "the reason: {error:?}");
    assert!(!error.is_temporary(), "the procedure has run: {error:?}");
    for _ in 0..2 {
        let call = next(&mut calls).await;
        worker.answer(&call.message).await;
        done(call).await;
    }
    assert_eq!(value(other).await, "2");
}

/// What the worker says of a failure arrives whole: message, trace, the error's name and detail.
pub async fn a_remote_error_arrives_whole(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, worker) = (bus.process().await, bus.process().await);
    let mut calls = worker.serve(serving(&api)).await;
    let errors = [
        RemoteError {
            message: "das Passwort ist zu kurz: \"ü\"\nmindestens 8".into(),
            trace: Some("auth.rs:12\nauth.rs:7".into()),
            name: Some("TooShort".into()),
            detail: Some(r#"{"at_least":8,"why":["größer"]}"#.into()),
        },
        RemoteError {
            message: "no".into(),
            trace: Some("main.py, line 3".into()),
            ..RemoteError::default()
        },
        RemoteError { message: "only a message".into(), ..RemoteError::default() },
    ];
    for (n, error) in errors.into_iter().enumerate() {
        let pending = caller.call(&bus, &api, n).await;
        let call = next(&mut calls).await;
        let mut result = result_of(&call.message, "");
        result.body = Err(error.clone());
        ok("replying", worker.result.reply(&call.message.return_path, result)).await;
        done(call).await;
        let result = ok("waiting for the result", pending).await;
        let mut found = result.body.expect_err("the error");
        // A wire may know no difference between no trace and an empty one.
        found.trace = found.trace.filter(|trace| !trace.is_empty());
        assert_eq!(found, error);
    }
}

/// A result may be any JSON value, and arrives byte for byte, with its headers.
pub async fn a_result_may_be_any_json(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, worker) = (bus.process().await, bus.process().await);
    let mut calls = worker.serve(serving(&api)).await;
    for (n, (name, json)) in json_of_every_kind(harness.largest()).into_iter().enumerate() {
        let pending = caller.call(&bus, &api, n).await;
        let call = next(&mut calls).await;
        let mut result = result_of(&call.message, json.clone());
        result.headers.set("x-kind", name);
        ok("replying", worker.result.reply(&call.message.return_path, result)).await;
        done(call).await;
        let result = ok("waiting for the result", pending).await;
        let value = result.body.expect("a value");
        assert!(value == json, "{name} came as {:?}", &value[..value.len().min(200)]);
        assert_eq!(result.headers.get("x-kind"), Some(name), "the header");
    }
}
