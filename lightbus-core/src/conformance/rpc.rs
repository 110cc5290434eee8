//! Calls: each to one worker, once, and in time.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use super::{
    Harness,
    kit::{
        Bus, Numbered, assert_same_fields, call_id, done, eventually, fails, fields_of_every_kind,
        flow, next, nothing, ok, serving, value, within,
    },
};
use crate::{ErrorKind, Name, Outcome, Retry, RpcMessage, Subscription, transport::ServeSpec};

/// Each call reaches one worker of all, once.
pub async fn each_call_runs_once(harness: &dyn Harness) {
    const CALLS: usize = 200;
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let caller = bus.process().await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        let process = bus.process().await;
        let spec = ServeSpec { flow: flow(5, 20), ..serving(&api) };
        workers.push((process.serve(spec).await, process));
    }
    let calls = async {
        let sent = join_all((0..CALLS).map(|n| caller.call(&bus, &api, n))).await;
        let values = join_all(sent.into_iter().map(value)).await;
        for (n, value) in values.iter().enumerate() {
            assert_eq!(*value, n.to_string(), "the result of the call {n}");
        }
    };
    let mut ran = Vec::new();
    let [(one, p1), (two, p2), (three, p3)] = &mut workers[..] else { unreachable!() };
    {
        let run = async {
            loop {
                let (delivery, process) = tokio::select! {
                    delivery = one.next() => (delivery, &*p1),
                    delivery = two.next() => (delivery, &*p2),
                    delivery = three.next() => (delivery, &*p3),
                };
                let delivery = delivery.expect("not the end").expect("a call");
                ran.push(delivery.message.number());
                process.answer(&delivery.message).await;
                delivery.ack.settle_later(Outcome::Done);
            }
        };
        within("all calls", async {
            tokio::select! {
                () = calls => {}
                () = run => {}
            }
        })
        .await;
    }
    for calls in [one, two, three] {
        nothing("all calls have run", calls).await;
    }
    ran.sort_unstable();
    assert_eq!(ran, (0..CALLS).collect::<Vec<_>>(), "each call once");
}

/// Workers of one API compete: while one is busy, another takes the next call.
pub async fn two_workers_share_the_calls(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (one, two) = (bus.process().await, bus.process().await);
    let small = || ServeSpec { flow: flow(1, 1), ..serving(&api) };
    let (mut here, mut there) = (one.serve(small()).await, two.serve(small()).await);
    let (first, second) = (one.call(&bus, &api, 1).await, one.call(&bus, &api, 2).await);
    let held = [next(&mut here).await, next(&mut there).await];
    let numbers: BTreeSet<_> = held.iter().map(|call| call.message.number()).collect();
    assert_eq!(numbers, [1, 2].into(), "each has one of the calls");
    for call in held {
        two.answer(&call.message).await;
        done(call).await;
    }
    assert_eq!(value(first).await, "1");
    assert_eq!(value(second).await, "2");
}

/// A call that no process serves yet waits for its worker.
pub async fn a_call_waits_for_its_worker(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, worker) = (bus.process().await, bus.process().await);
    let pending = caller.call(&bus, &api, 1).await;
    let _worker = worker.answer_all(worker.serve(serving(&api)).await);
    assert_eq!(value(pending).await, "1");
}

/// The calls that wait for a worker are counted until one takes them.
pub async fn waiting_calls_are_counted(harness: &dyn Harness) {
    if !harness.capabilities().backlog {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let process = bus.process().await;
    let counts = async |waiting: u64| {
        eventually(&format!("{waiting} calls wait"), async || {
            let found = ok("counting", process.rpc.backlog(&api)).await;
            (found == waiting).then_some(())
        })
        .await;
    };
    counts(0).await;
    // The API has had a worker.
    ok("closing", process.serve(serving(&api)).await.close()).await;
    counts(0).await;
    let mut pending = Vec::new();
    for n in 0..3 {
        pending.push(process.call(&bus, &api, n).await);
    }
    counts(3).await;
    let _worker = process.answer_all(process.serve(serving(&api)).await);
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(value(pending).await, n.to_string());
    }
    counts(0).await;
}

/// No worker is handed a call whose caller has given up.
pub async fn an_expired_call_is_not_run(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let process = bus.process().await;
    let deadline = Instant::now() + Duration::from_millis(500);
    for n in 0..3 {
        let pending = ok("expecting", process.result.expect(&super::kit::call_id(&api, n))).await;
        let call = RpcMessage { deadline, ..bus.call(&api, n, pending.return_path()) };
        match within("calling", process.rpc.call(call)).await {
            Ok(()) => {}
            // On a slow machine.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}"),
        }
    }
    // A broker may count in milliseconds, and round up.
    sleep_until(deadline + Duration::from_millis(50)).await;
    let mut calls = process.serve(serving(&api)).await;
    let _pending = process.call(&bus, &api, 9).await;
    let call = next(&mut calls).await;
    assert_eq!(call.message.number(), 9, "the calls before have expired");
    done(call).await;
    nothing("the other calls have expired", &mut calls).await;
}

/// A call whose deadline has passed is not sent at all.
pub async fn a_call_past_its_deadline_is_refused(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let process = bus.process().await;
    let mut calls = process.serve(serving(&api)).await;
    let pending = ok("expecting", process.result.expect(&super::kit::call_id(&api, 1))).await;
    let deadline = Instant::now();
    let call = RpcMessage { deadline, ..bus.call(&api, 1, pending.return_path()) };
    let error = fails("calling too late", ErrorKind::Timeout, process.rpc.call(call)).await;
    assert_eq!(error.retryable(), Retry::Safe, "nothing was sent: {error:?}");
    nothing("the call was refused", &mut calls).await;
}

/// A worker learns how long the caller waits: not longer than it does, and not much shorter.
pub async fn the_deadline_reaches_the_worker(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, worker) = (bus.process().await, bus.process().await);
    let mut calls = worker.serve(serving(&api)).await;
    for (n, seconds) in [(1, 30), (2, 300)] {
        let pending = ok("expecting", caller.result.expect(&super::kit::call_id(&api, n))).await;
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let message = RpcMessage { deadline, ..bus.call(&api, n, pending.return_path()) };
        ok("calling", caller.rpc.call(message)).await;
        let call = next(&mut calls).await;
        // The wire may hold whole milliseconds of time left.
        let late = call.message.deadline.saturating_duration_since(deadline);
        let early = deadline.saturating_duration_since(call.message.deadline);
        assert!(late < Duration::from_secs(2), "{late:?} later than the caller gives up");
        assert!(early < Duration::from_secs(5), "{early:?} earlier than the caller gives up");
        done(call).await;
    }
}

/// One worker may serve several APIs; a busy one does not starve another.
pub async fn one_worker_may_serve_several_apis(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let apis = [bus.name("one"), bus.name("two"), bus.name("three")];
    let (caller, worker) = (bus.process().await, bus.process().await);
    let spec = ServeSpec { apis: apis.to_vec(), flow: flow(2, 4) };
    let _worker = worker.answer_all(worker.serve(spec).await);
    let calls = (0..90).map(|n| caller.call(&bus, &apis[n % 3], n));
    let pending = within("calling", join_all(calls)).await;
    for (n, pending) in pending.into_iter().enumerate() {
        assert_eq!(value(pending).await, n.to_string());
    }
}

/// A worker gets the calls of the APIs that it serves, and no others.
pub async fn calls_go_to_the_workers_of_their_api(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (shop, till) = (bus.name("shop"), bus.name("shop.till"));
    let process = bus.process().await;
    let mut of_shop = process.serve(serving(&shop)).await;
    let mut of_till = process.serve(serving(&till)).await;
    let _pending = [process.call(&bus, &shop, 1).await, process.call(&bus, &till, 2).await];
    for (calls, api, n) in [(&mut of_shop, &shop, 1), (&mut of_till, &till, 2)] {
        let call = next(calls).await;
        assert_eq!((&call.message.api, call.message.number()), (api, n));
        done(call).await;
        nothing("the other call is for another API", calls).await;
    }
}

/// Names, headers and arguments of a call arrive as they were sent: byte for byte.
pub async fn arguments_of_every_kind_survive(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("bytes");
    let (caller, worker) = (bus.process().await, bus.process().await);
    let mut calls = worker.serve(serving(&api)).await;
    for n in 0..2 {
        let pending = ok("expecting", caller.result.expect(&super::kit::call_id(&api, n))).await;
        let mut sent = bus.call(&api, n, pending.return_path());
        sent.procedure = "größe_ändern".into();
        sent.fields = match n {
            0 => fields_of_every_kind(harness.largest()),
            _ => crate::Arguments::new(),
        };
        sent.headers.set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
        sent.headers.set("x-unicode", "Grüße 世界");
        ok("calling", caller.rpc.call(sent.clone())).await;
        let call = next(&mut calls).await;
        assert_eq!(call.message.id, sent.id);
        assert_eq!(call.message.api, sent.api);
        assert_eq!(call.message.procedure, sent.procedure);
        assert_eq!(call.message.return_path, sent.return_path);
        assert_same_fields(&call.message.fields, &sent.fields);
        for (name, value) in sent.headers.iter() {
            assert_eq!(call.message.headers.get(name), Some(&**value), "the header `{name}`");
        }
        done(call).await;
    }
}

/// Calls that a worker had fetched and no handler has seen go to another when it closes.
pub async fn a_stopped_worker_gives_back_unseen_calls(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, one) = (bus.process().await, bus.process().await);
    let spec = ServeSpec { flow: flow(5, 5), ..serving(&api) };
    let mut calls = one.serve(spec).await;
    let sent = join_all((0..5).map(|n| caller.call(&bus, &api, n))).await;
    // With the first, others have been fetched.
    let first = next(&mut calls).await;
    one.answer(&first.message).await;
    done(first).await;
    ok("closing", calls.close()).await;
    one.close().await;

    let two = bus.process().await;
    let _worker = two.answer_all(two.serve(serving(&api)).await);
    for (n, pending) in sent.into_iter().enumerate() {
        assert_eq!(value(pending).await, n.to_string());
    }
}

/// A call that was handed out is never handed out again, whatever becomes of it: it may have run.
pub async fn a_call_that_was_handed_out_never_comes_again(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let process = bus.process().await;
    let mut calls = process.serve(serving(&api)).await;
    let _pending = [process.call(&bus, &api, 1).await, process.call(&bus, &api, 2).await];
    drop(next(&mut calls).await);
    ok("settling", next(&mut calls).await.ack.settle(Outcome::Retry)).await;
    nothing("both were handed out", &mut calls).await;
    ok("closing", calls.close()).await;
    process.close().await;

    let other = bus.process().await;
    let mut calls = other.serve(serving(&api)).await;
    let _pending = other.call(&bus, &api, 3).await;
    let call = next(&mut calls).await;
    assert_eq!(call.message.number(), 3, "the others were handed out");
    done(call).await;
    nothing("the others were handed out", &mut calls).await;
}

/// A worker is handed no more calls than may be in flight: the rest is for others.
pub async fn a_worker_takes_no_more_than_asked(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (one, two) = (bus.process().await, bus.process().await);
    let spec = ServeSpec { flow: flow(10, 2), ..serving(&api) };
    let mut busy = one.serve(spec).await;
    let _pending = join_all((0..6).map(|n| one.call(&bus, &api, n))).await;
    let held = [next(&mut busy).await, next(&mut busy).await];
    nothing("two are in flight", &mut busy).await;
    let mut others: Subscription<RpcMessage> = two.serve(serving(&api)).await;
    let mut numbers: Vec<_> = held.iter().map(|call| call.message.number()).collect();
    for _ in 0..4 {
        let call = next(&mut others).await;
        numbers.push(call.message.number());
        done(call).await;
    }
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    for call in held {
        done(call).await;
    }
}

/// A call of another API, which may have a procedure of the same name, does not run. Its caller is told.
pub async fn a_call_in_the_queue_of_another_api_is_refused(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (api, other) = (bus.name("auth"), bus.name("admin"));
    let process = bus.process().await;
    let mut calls = process.serve(serving(&api)).await;
    let pending = ok("expecting a result", process.result.expect(&call_id(&other, 1))).await;
    let call = bus.call(&other, 1, pending.return_path());
    let misdirected = harness.misdirected_call(&api, &call).await;
    if misdirected.or_say("putting a call into the queue of another API").is_none() {
        return;
    }
    let refusal = ok("waiting for the refusal", pending).await;
    let error = refusal.body.expect_err("a refusal");
    assert!(error.message.contains(&*other), "what it was for: {error:?}");
    let right = process.call(&bus, &api, 2).await;
    let call = next(&mut calls).await;
    process.answer(&call.message).await;
    done(call).await;
    assert_eq!(value(right).await, "2");
    nothing("a call of another API is not delivered", &mut calls).await;
    ok("closing", calls.close()).await;
}

/// A call that cannot be read is rejected, and the worker goes on.
pub async fn a_malformed_call_is_set_aside(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api: Name = bus.name("auth");
    let process = bus.process().await;
    let mut calls = process.serve(serving(&api)).await;
    let first = process.call(&bus, &api, 1).await;
    let malformed = harness.malformed_call(&api).await;
    if malformed.or_say("putting a malformed call").is_none() {
        return;
    }
    let second = process.call(&bus, &api, 2).await;
    for _ in 0..2 {
        let call = next(&mut calls).await;
        process.answer(&call.message).await;
        done(call).await;
    }
    assert_eq!(value(first).await, "1");
    assert_eq!(value(second).await, "2");
    nothing("what cannot be read is not delivered", &mut calls).await;
    ok("closing", calls.close()).await;
}
