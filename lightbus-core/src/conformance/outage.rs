//! A broker that breaks, and what goes on afterwards.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Breakable, Harness,
    kit::{Bus, Numbered, Process, call_id, done, limit, next, ok, serving, value, within},
};
use crate::{ErrorKind, EventMessage, Name, Result, RpcMessage, Subscription};

/// How a broker breaks.
#[derive(Clone, Copy)]
enum Break {
    Connections,
    Broker,
}

impl Break {
    /// Breaks it; `false` where that makes no sense.
    async fn happens(self, broker: &dyn Breakable) -> bool {
        match self {
            Self::Connections => {
                broker.break_connections().await.or_say("breaking all connections").is_some()
            }
            Self::Broker => {
                broker.stop().await;
                broker.start().await;
                true
            }
        }
    }
}

async fn own_broker(harness: &dyn Harness) -> Option<Box<dyn Breakable>> {
    harness.own_broker().await.or_say("having a broker of its own")
}

/// Tries until it succeeds. Failures must be such as may pass.
async fn until_it_works<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T>) -> T {
    let limit = limit();
    let deadline = Instant::now() + limit;
    loop {
        match within(what, attempt()).await {
            Ok(value) => return value,
            Err(error) => {
                assert!(
                    error.is_temporary() || error.kind() == ErrorKind::Timeout,
                    "{what}: an error that does not pass by itself: {error:?}"
                );
                assert!(Instant::now() < deadline, "{what}: not within {limit:?}: {error:?}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A listener goes on by itself after the broker was restarted: it misses nothing that was confirmed,
/// and what it held is redelivered or is settled.
pub async fn a_listener_survives_a_broker_restart(harness: &dyn Harness) {
    listener_survives(harness, Break::Broker).await;
}

/// A listener goes on by itself after its connections broke.
pub async fn a_listener_survives_broken_connections(harness: &dyn Harness) {
    listener_survives(harness, Break::Connections).await;
}

async fn listener_survives(harness: &dyn Harness, how: Break) {
    let Some(broker) = own_broker(harness).await else { return };
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let (sender, process) =
        (Process::open(broker.connect().await).await, Process::open(broker.connect().await).await);
    let mut events = process.listen(bus.listener(&api, "mail")).await;
    sender.send(&bus.events(&api, 0..4)).await;
    done(next(&mut events).await).await;
    let held = next(&mut events).await;
    let mut missing: BTreeSet<usize> = [1, 2, 3].into();
    if !how.happens(&*broker).await {
        return;
    }
    if matches!(how, Break::Broker) && !harness.capabilities().durable {
        missing.clear();
    }
    // Held over the break: settled, or it is redelivered.
    let n = held.message.number();
    if held.ack.settle(crate::Outcome::Done).await.is_ok() {
        missing.remove(&n);
    }
    until_it_works("sending after the break", async || {
        sender.event.send(&bus.events(&api, 10..13)).await
    })
    .await;
    missing.extend(10..13);
    receive(&mut events, missing).await;
    ok("closing", events.close()).await;
}

/// Receives until nothing of this is missing. More may come: at least once is what was promised.
async fn receive(events: &mut Subscription<EventMessage>, mut missing: BTreeSet<usize>) {
    while !missing.is_empty() {
        let delivery = next(events).await;
        missing.remove(&delivery.message.number());
        done(delivery).await;
    }
}

/// A worker goes on by itself after the broker was restarted.
pub async fn a_worker_survives_a_broker_restart(harness: &dyn Harness) {
    worker_survives(harness, Break::Broker).await;
}

/// A worker goes on by itself after its connections broke, and so does whoever calls it.
pub async fn a_worker_survives_broken_connections(harness: &dyn Harness) {
    worker_survives(harness, Break::Connections).await;
}

async fn worker_survives(harness: &dyn Harness, how: Break) {
    let Some(broker) = own_broker(harness).await else { return };
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let (caller, worker) =
        (Process::open(broker.connect().await).await, Process::open(broker.connect().await).await);
    let mut calls = worker.serve(serving(&api)).await;
    let pending = caller.call(&bus, &api, 1).await;
    let call = next(&mut calls).await;
    worker.answer(&call.message).await;
    done(call).await;
    assert_eq!(value(pending).await, "1");
    if !how.happens(&*broker).await {
        return;
    }
    let run = async {
        loop {
            let call = next(&mut calls).await;
            let answer = super::kit::result_of(
                &call.message,
                call.message.fields.get("n").cloned().expect("the number"),
            );
            // A worker tries as long as its caller waits.
            until_it_works("replying after the break", async || {
                worker.result.reply(&call.message.return_path, answer.clone()).await
            })
            .await;
            call.ack.settle_later(crate::Outcome::Done);
        }
    };
    let mut n = 10;
    let call = until_it_works("calling after the break", async || {
        n += 1;
        call_and_wait(&bus, &caller, &api, n, Duration::from_secs(3)).await
    });
    tokio::select! {
        value = call => assert_eq!(value, n.to_string()),
        () = run => {}
    }
}

/// A caller that the broker's restart found waiting goes on: later calls get their results, by the
/// same transports.
pub async fn a_caller_survives_a_broker_restart(harness: &dyn Harness) {
    let Some(broker) = own_broker(harness).await else { return };
    let bus = Bus::new(harness);
    let api = bus.name("auth");
    let caller = Process::open(broker.connect().await).await;
    let waits = caller.call(&bus, &api, 1).await;
    Break::Broker.happens(&*broker).await;
    // New, so that only the caller has to recover.
    let worker = Process::open(broker.connect().await).await;
    let _worker = worker.answer_all(worker.serve(serving(&api)).await);
    let mut n = 10;
    let value = until_it_works("calling after the break", async || {
        n += 1;
        call_and_wait(&bus, &caller, &api, n, Duration::from_secs(3)).await
    })
    .await;
    assert_eq!(value, n.to_string());
    drop(waits);
}

/// Calls as a bus does: with a time limit for the whole.
async fn call_and_wait(
    bus: &Bus<'_>,
    caller: &Process,
    api: &Name,
    n: usize,
    limit: Duration,
) -> Result<bytes::Bytes> {
    let deadline = Instant::now() + limit;
    let whole = async {
        let pending = caller.result.expect(&call_id(api, n)).await?;
        let call = RpcMessage { deadline, ..bus.call(api, n, pending.return_path()) };
        caller.rpc.call(call).await?;
        let result = pending.await?;
        Ok(result.body.expect("a value"))
    };
    tokio::time::timeout_at(deadline, whole)
        .await
        .unwrap_or_else(|_| Err(crate::Error::timeout("no result came in time", limit)))
}

/// While the broker is away, operations fail soon as `Unavailable`, and may be retried; when it is
/// back, they work.
pub async fn a_broker_that_is_away_is_unavailable(harness: &dyn Harness) {
    let Some(broker) = own_broker(harness).await else { return };
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = Process::open(broker.connect().await).await;
    process.send(&bus.events(&api, 0..1)).await;
    broker.stop().await;
    let ttl = Duration::from_secs(60);
    let document = serde_json::value::to_raw_value("schema").expect("JSON");
    let sent = [bus.event(&api, 1)];
    let failed = [
        ("firing", within("firing", process.event.send(&sent)).await.err()),
        ("storing", within("storing", process.schema.store(&api, &document, ttl)).await.err()),
        ("loading", within("loading", process.schema.load()).await.err()),
        ("opening", within("opening", process.event.open()).await.err()),
    ];
    for (what, error) in failed {
        let error = error.unwrap_or_else(|| panic!("{what} must fail while the broker is away"));
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{what}: {error:?}");
        assert!(error.is_temporary(), "{what}: it may be retried");
    }
    let called = call_and_wait(&bus, &process, &api, 1, Duration::from_secs(1)).await;
    let error = called.expect_err("calling must fail while the broker is away");
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");
    broker.start().await;
    until_it_works("firing again", async || process.event.send(&sent).await).await;
    until_it_works("loading again", async || process.schema.load().await).await;
    until_it_works("opening again", async || process.open().await).await;
}
