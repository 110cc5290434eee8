//! Events: who gets them, and from where on.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Harness,
    event::{settle_all, time},
    kit::{
        Bus, Numbered, Process, assert_numbers, done, eventually, flow, in_a_process_that_dies,
        next, nothing, nothing_within, ok, take,
    },
};
use crate::{
    ErrorKind, Name, Outcome,
    transport::{EventSelector, GroupSpec, Lag, ListenSpec, Start},
};

/// Listeners of different names each get all events, in one process or in several.
pub async fn every_listener_gets_every_event(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let (one, two) = (bus.process().await, bus.process().await);
    let mut mail = one.listen(bus.listener(&api, "mail")).await;
    let mut stock = one.listen(bus.listener(&api, "stock")).await;
    let mut audit = two.listen(bus.listener(&api, "audit")).await;
    two.send(&bus.events(&api, 0..20)).await;
    for events in [&mut mail, &mut stock, &mut audit] {
        assert_numbers(harness, take(events, 20).await, 0..20);
    }
    nothing("each event came once", &mut mail).await;
}

/// Processes that listen under one name share the events: each goes to one of them.
pub async fn one_listener_name_shares_the_events(harness: &dyn Harness) {
    const EVENTS: usize = 40;
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let (one, two) = (bus.process().await, bus.process().await);
    let small = |spec| ListenSpec { flow: flow(2, 4), ..spec };
    let mut here = one.listen(small(bus.listener(&api, "mail"))).await;
    let mut there = two.listen(small(bus.listener(&api, "mail"))).await;
    // Of many keys, so that no broker has a reason to keep them together.
    let events: Vec<_> = (0..EVENTS).map(|n| bus.event(&api, n)).collect();
    one.send(&events).await;

    // Neither can have taken all: both get some.
    let held = [next(&mut here).await, next(&mut there).await];
    let mut numbers: Vec<_> = held.iter().map(|delivery| delivery.message.number()).collect();
    settle_all(held, Outcome::Done).await;
    while numbers.len() < EVENTS {
        let delivery = tokio::select! {
            delivery = next(&mut here) => delivery,
            delivery = next(&mut there) => delivery,
        };
        numbers.push(delivery.message.number());
        done(delivery).await;
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..EVENTS).collect::<Vec<_>>(), "each event goes to one of the two");
    nothing("all have been settled", &mut here).await;
    nothing("all have been settled", &mut there).await;
}

/// The same listener name in another service is another group.
pub async fn two_services_do_not_share(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let spec = bus.listener(&api, "mail");
    let other = GroupSpec::new(bus.name("other-service"), "mail");
    let other = ListenSpec { group: other, ..bus.listener(&api, "mail") };
    let mut one = process.listen(spec).await;
    let mut two = process.listen(other).await;
    process.send(&bus.events(&api, 0..5)).await;
    assert_numbers(harness, take(&mut one, 5).await, 0..5);
    assert_numbers(harness, take(&mut two, 5).await, 0..5);
}

/// What is sent after `listen` has returned reaches the listener, however soon.
pub async fn listen_then_send_misses_nothing(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (sender, process) = (bus.process().await, bus.process().await);
    for round in 0..10 {
        let api = bus.name(&format!("orders-{round}"));
        let mut events = process.listen(bus.listener(&api, &format!("first-{round}"))).await;
        sender.send(&[bus.event(&api, round)]).await;
        assert_numbers(harness, take(&mut events, 1).await, [round]);
        // Also where the stream is there already.
        let mut later = process.listen(bus.listener(&api, &format!("second-{round}"))).await;
        sender.send(&[bus.event(&api, 100 + round)]).await;
        assert_numbers(harness, take(&mut later, 1).await, [100 + round]);
    }
}

/// A new listener gets what is sent from then on, and nothing older, unless it asks for it.
pub async fn a_new_listener_begins_with_what_comes(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    process.send(&bus.events(&api, 0..5)).await;
    let mut events = process.listen(bus.listener(&api, "late")).await;
    process.send(&bus.events(&api, 5..8)).await;
    assert_numbers(harness, take(&mut events, 3).await, 5..8);
    nothing("older events were not asked for", &mut events).await;
}

/// A new listener may begin with the oldest event that the broker has.
pub async fn a_listener_may_start_with_the_earliest(harness: &dyn Harness) {
    if !harness.capabilities().replay {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    process.send(&bus.events(&api, 0..25)).await;
    let spec = ListenSpec { start: Start::Earliest, ..bus.listener(&api, "late") };
    let mut events = process.listen(spec).await;
    process.send(&bus.events(&api, 25..30)).await;
    assert_numbers(harness, take(&mut events, 30).await, 0..30);
}

/// Processes that start a new listener in the past at the same time all start, and share the past.
pub async fn processes_may_start_in_the_past_at_once(harness: &dyn Harness) {
    const EVENTS: usize = 200;
    if !harness.capabilities().replay {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let processes = [bus.process().await, bus.process().await, bus.process().await];
    // Of many keys, so that each process may get some.
    let events: Vec<_> = (0..EVENTS).map(|n| bus.event(&api, n)).collect();
    processes[0].send(&events).await;
    let started = processes.iter().map(|process| {
        let spec = ListenSpec { start: Start::Earliest, ..bus.listener(&api, "late") };
        process.listen(spec)
    });
    let started = futures_util::future::join_all(started).await;
    let (numbers, mut taken) = tokio::sync::mpsc::unbounded_channel();
    for mut events in started {
        let numbers = numbers.clone();
        tokio::spawn(async move {
            while let Some(Ok(delivery)) = events.next().await {
                let _ = numbers.send(delivery.message.number());
                delivery.ack.settle_later(Outcome::Done);
            }
        });
    }
    let mut seen = BTreeSet::new();
    eventually("each event reaches one of them", async || {
        while let Ok(number) = taken.try_recv() {
            seen.insert(number);
        }
        (seen.len() == EVENTS).then_some(())
    })
    .await;
}

/// A new listener may begin with the first event that is not older than a moment.
pub async fn a_listener_may_start_since(harness: &dyn Harness) {
    if !harness.capabilities().replay {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut all = process.listen(bus.listener(&api, "all")).await;
    // At three moments at least, as the broker's clock tells them.
    let mut times = Vec::new();
    while times.iter().collect::<BTreeSet<_>>().len() < 3 {
        // Of one key, so that they stay in order.
        process.send(&bus.events(&api, times.len()..times.len() + 1)).await;
        let delivery = next(&mut all).await;
        times.push(time(&delivery.message));
        done(delivery).await;
    }
    let moments: Vec<_> = times.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
    let far = Duration::from_secs(3600);
    for (index, since) in [moments[1], moments[0] - far, moments[2] + far].into_iter().enumerate() {
        let name = format!("since-{index}");
        let spec = ListenSpec { start: Start::Since(since), ..bus.listener(&api, &name) };
        let mut events = process.listen(spec).await;
        let expected: Vec<_> = (0..times.len()).filter(|n| times[*n] >= since).collect();
        assert_numbers(harness, take(&mut events, expected.len()).await, expected);
        nothing("older events were not asked for", &mut events).await;
    }
}

/// A group that the broker knows goes on where it was, wherever its next process asks to begin, and
/// misses nothing that was sent while it had none.
pub async fn a_known_group_goes_on_where_it_was(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let sender = bus.process().await;
    let mut sent = 0;
    let mut send = async || {
        sent += 4;
        sender.send(&bus.events(&api, sent - 4..sent)).await;
    };
    let first = bus.process().await;
    let mut events = first.listen(bus.listener(&api, "mail")).await;
    send().await;
    assert_numbers(harness, take(&mut events, 4).await, 0..4);
    ok("closing", events.close()).await;
    first.close().await;

    let mut starts = vec![Start::New];
    if harness.capabilities().replay {
        starts.push(Start::Earliest);
    }
    for (round, start) in starts.into_iter().enumerate() {
        send().await;
        let process = bus.process().await;
        let spec = ListenSpec { start, ..bus.listener(&api, "mail") };
        let mut events = process.listen(spec).await;
        let first = 4 + round * 4;
        assert_numbers(harness, take(&mut events, 4).await, first..first + 4);
        nothing("older events are settled", &mut events).await;
        ok("closing", events.close()).await;
        process.close().await;
    }
}

/// What a process held and did not settle when it died goes to another process of the group.
pub async fn a_crashed_listeners_events_are_taken_over(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let other = bus.process().await;
    let spec = ListenSpec { flow: flow(5, 5), ..bus.listener(&api, "mail") };
    let dead = in_a_process_that_dies(async {
        let process = bus.process().await;
        let mut events = process.listen(spec).await;
        other.send(&bus.events(&api, 0..12)).await;
        done(next(&mut events).await).await;
        // One it holds, four wait in its hands or are there to be taken.
        let held = next(&mut events).await;
        (process, events, held)
    });
    let mut events = other.listen(bus.listener(&api, "mail")).await;
    let mut numbers = take(&mut events, 11).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..12).collect::<Vec<_>>(), "all that the dead process had not settled");
    nothing("each came once", &mut events).await;
    drop(dead);
}

/// A process that comes back under its old name gets what it had not settled before anything newer;
/// without the capability `resumes` it gets it too, when the time for dead processes is over.
pub async fn a_process_gets_its_own_events_back_first(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let sender = bus.process().await;
    let spec = ListenSpec { flow: flow(3, 3), ..bus.listener(&api, "mail") };
    let same_name = spec.clone();
    let dead = in_a_process_that_dies(async {
        let process = bus.process().await;
        let mut events = process.listen(spec).await;
        sender.send(&bus.events(&api, 0..3)).await;
        let held = [next(&mut events).await, next(&mut events).await, next(&mut events).await];
        (process, events, held)
    });
    sender.send(&bus.events(&api, 3..5)).await;
    let again = bus.process().await;
    let mut events = again.listen(same_name).await;
    let mut numbers = take(&mut events, 5).await;
    if !harness.capabilities().resumes {
        numbers.sort_unstable();
    }
    assert_numbers(harness, numbers, 0..5);
    nothing("each came once", &mut events).await;
    drop(dead);
}

/// A handler that takes longer than dead processes are waited for keeps its event: it lives.
pub async fn a_slow_handler_keeps_its_event(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let (one, two) = (bus.process().await, bus.process().await);
    let mut slow = one.listen(bus.listener(&api, "mail")).await;
    one.send(&[bus.event(&api, 1)]).await;
    let held = next(&mut slow).await.begin().await.expect("it has not been taken back");
    let mut other = two.listen(bus.listener(&api, "mail")).await;
    let long = harness.taken_over_after().mul_f64(2.5) + Duration::from_millis(100);
    nothing_within("the event is in the hands of a process that lives", &mut other, long).await;
    done(held).await;
    nothing_within(
        "the event is settled",
        &mut other,
        harness.taken_over_after() + Duration::from_millis(100),
    )
    .await;
    nothing("the event is settled", &mut slow).await;
}

/// What `send` has confirmed is delivered although its sender died at once.
pub async fn sent_events_survive_the_sender(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut events = process.listen(bus.listener(&api, "mail")).await;
    let dead = in_a_process_that_dies(async {
        let sender = bus.process().await;
        sender.send(&bus.events(&api, 0..20)).await;
        sender
    });
    assert_numbers(harness, take(&mut events, 20).await, 0..20);
    drop(dead);
}

/// A listener that was forgotten begins again, without what waited for it; others go on.
pub async fn a_forgotten_listener_begins_anew(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let (mail, stock) = (bus.listener(&api, "mail"), bus.listener(&api, "stock"));
    let (group, events) = (mail.group.clone(), mail.events.clone());
    let forget = async || process.event.forget(&group, &events).await;
    match forget().await {
        Err(error) if error.kind() == ErrorKind::Unsupported => return,
        never_there => never_there.expect("a listener that never was is no error"),
    }
    let mut stock = process.listen(stock).await;
    ok("closing", process.listen(mail.clone()).await.close()).await;
    process.send(&bus.events(&api, 0..5)).await;
    ok("forgetting", forget()).await;
    ok("forgetting again", forget()).await;
    let mut mail = process.listen(mail).await;
    process.send(&bus.events(&api, 5..8)).await;
    assert_numbers(harness, take(&mut mail, 3).await, 5..8);
    assert_numbers(harness, take(&mut stock, 8).await, 0..8);
    nothing("what waited is forgotten", &mut mail).await;
}

/// The lag of a group: what it has not taken, and what it has taken and not settled.
pub async fn lag_counts(harness: &dyn Harness) {
    if !harness.capabilities().lag {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let spec = ListenSpec { flow: flow(3, 3), ..bus.listener(&api, "mail") };
    let (group, asked) = (spec.group.clone(), spec.events.clone());
    let lag = async |process: &Process, waiting, pending| {
        let expected = Lag { waiting, pending };
        eventually(&format!("{expected:?}"), async || {
            let lag = ok("asking for the lag", process.event.lag(&group, &asked)).await;
            (lag == expected).then_some(())
        })
        .await;
    };
    lag(&process, 0, 0).await;
    ok("closing", process.listen(spec.clone()).await.close()).await;
    lag(&process, 0, 0).await;
    process.send(&bus.events(&api, 0..5)).await;
    lag(&process, 5, 0).await;

    let mut events = process.listen(spec).await;
    let held = [next(&mut events).await, next(&mut events).await, next(&mut events).await];
    lag(&process, 2, 3).await;
    settle_all(held, Outcome::Done).await;
    take(&mut events, 2).await;
    lag(&process, 0, 0).await;

    let unknown = GroupSpec::new(Name::clone(&group.service), "unknown");
    let events = [EventSelector::all(bus.name("unknown"))];
    let lag =
        ok("asking for the lag of an unknown group", process.event.lag(&unknown, &events)).await;
    assert_eq!(lag, Lag::default(), "a group that does not exist");
    process.close().await;
    let lag = process.event.lag(&group, &asked);
    super::kit::fails("asking a closed transport", ErrorKind::Closed, lag).await;
}
