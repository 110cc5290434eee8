//! Events: what arrives.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, future::join_all};

use super::{
    Harness,
    kit::{
        Bus, Numbered, assert_numbers, assert_same_fields, done, eventually, fields_of_every_kind,
        flow, next, nothing, ok, same_key, take, within,
    },
};
use crate::{
    EventMessage, Name, Outcome,
    transport::{EventSelector, EventTransport, HistorySpec},
};

/// Events reach a listener in the order in which they were sent, one send after the other.
pub async fn events_arrive_in_order(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let (sender, process) = (bus.process().await, bus.process().await);
    let mut events = process.listen(bus.listener(&api, "all")).await;
    for first in (0..100).step_by(4) {
        sender.send(&bus.events(&api, first..first + 4)).await;
    }
    assert_numbers(harness, take(&mut events, 100).await, 0..100);
}

/// The events of one send arrive in the order of the slice.
pub async fn a_batch_keeps_its_order(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut events = process.listen(bus.listener(&api, "all")).await;
    process.send(&bus.events(&api, 0..500)).await;
    assert_numbers(harness, take(&mut events, 500).await, 0..500);
}

/// Many events to many listeners: each gets each, once.
pub async fn many_events_reach_many_listeners(harness: &dyn Harness) {
    const LISTENERS: usize = 20;
    const EVENTS: usize = 500;
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let processes = [bus.process().await, bus.process().await, bus.process().await];
    let mut listeners = Vec::new();
    for listener in 0..LISTENERS {
        let spec = bus.listener(&api, &format!("listener-{listener}"));
        listeners.push(processes[listener % processes.len()].listen(spec).await);
    }
    let send = async {
        for first in (0..EVENTS).step_by(50) {
            processes[0].send(&bus.events(&api, first..first + 50)).await;
        }
    };
    let receive = join_all(listeners.iter_mut().map(|events| take(events, EVENTS)));
    let ((), received) = tokio::join!(send, receive);
    for numbers in received {
        assert_numbers(harness, numbers, 0..EVENTS);
    }
    for events in &mut listeners {
        nothing_left(events);
    }
}

fn nothing_left(events: &mut crate::Subscription<EventMessage>) {
    let left = futures_util::FutureExt::now_or_never(events.next());
    assert!(left.is_none(), "each event comes once, but this came again: {left:?}");
}

/// An API's events reach its listeners and no other's, also where one name begins with the other.
pub async fn two_apis_do_not_mix(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (shop, till) = (bus.name("shop"), bus.name("shop.till"));
    let process = bus.process().await;
    let mut of_shop = process.listen(bus.listener(&shop, "one")).await;
    let mut of_till = process.listen(bus.listener(&till, "other")).await;
    let sent = [bus.event(&shop, 1), bus.event(&till, 2), bus.event(&shop, 3)];
    process.send(&sent.map(same_key)).await;
    assert_numbers(harness, take(&mut of_shop, 2).await, [1, 3]);
    assert_numbers(harness, take(&mut of_till, 1).await, [2]);
    nothing("the other API's events are not for this listener", &mut of_shop).await;
    nothing_left(&mut of_till);
}

/// One may listen to what no process fires, and fire what no process listens to.
pub async fn an_unknown_event_is_harmless(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (api, unknown) = (bus.name("orders"), bus.name("unknown"));
    let process = bus.process().await;
    let mut never = process.listen(bus.listener(&unknown, "waits")).await;
    process.send(&[bus.event_called(&api, "unheard", 1)]).await;
    let mut spec = bus.listener(&api, "both");
    spec.events.push(EventSelector::one(unknown, "never_fired"));
    let mut events = process.listen(spec).await;
    process.send(&[bus.event(&api, 2)]).await;
    assert_numbers(harness, take(&mut events, 1).await, [2]);
    nothing("no process fires it", &mut never).await;
    ok("closing", never.close()).await;
}

/// A selector without an event selects all of the API.
pub async fn every_event_of_an_api(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (api, other) = (bus.name("orders"), bus.name("other"));
    let process = bus.process().await;
    let mut spec = bus.listener(&api, "all");
    spec.events = vec![EventSelector::all(Name::clone(&api))];
    let mut events = process.listen(spec).await;
    let names = ["placed", "paid", "shipped", "paid"];
    for (n, name) in names.iter().enumerate() {
        process.send(&[bus.event_called(&api, name, n), bus.event(&other, 100 + n)]).await;
    }
    let mut found = BTreeSet::new();
    for _ in names {
        let delivery = next(&mut events).await;
        found.insert((delivery.message.number(), delivery.message.event.to_string()));
        done(delivery).await;
    }
    let expected: BTreeSet<_> =
        names.iter().enumerate().map(|(n, name)| (n, (*name).to_owned())).collect();
    assert_eq!(found, expected);
    nothing("the rest is another API's", &mut events).await;
}

/// One listener may listen to events of several APIs: all in one group.
pub async fn several_events_in_one_listener(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (one, two) = (bus.name("one"), bus.name("two"));
    let process = bus.process().await;
    let mut spec = bus.listener(&one, "several");
    spec.events = vec![
        EventSelector::one(Name::clone(&one), "opened"),
        EventSelector::one(Name::clone(&one), "closed"),
        EventSelector::one(Name::clone(&two), "opened"),
    ];
    let mut events = process.listen(spec).await;
    for round in 0..10 {
        process
            .send(&[
                bus.event_called(&one, "opened", round * 4),
                bus.event_called(&one, "closed", round * 4 + 1),
                bus.event_called(&two, "opened", round * 4 + 2),
                bus.event_called(&two, "closed", round * 4 + 3),
            ])
            .await;
    }
    let mut numbers = take(&mut events, 30).await;
    numbers.sort_unstable();
    let expected: Vec<_> = (0..40).filter(|n| n % 4 != 3).collect();
    assert_eq!(numbers, expected, "`closed` of the second API was not asked for, all else was");
    nothing("each came once", &mut events).await;
}

/// What a listener did not ask for takes no place, does not come, and is not left pending.
pub async fn unwanted_events_are_skipped(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut spec = bus.listener(&api, "few");
    spec.flow = flow(2, 2);
    let (group, asked) = (spec.group.clone(), spec.events.clone());
    let mut events = process.listen(spec).await;
    let many: Vec<_> = (0..60)
        .map(|n| match n % 20 {
            // Of one key, so that they stay in order.
            19 => same_key(bus.event(&api, n)),
            _ => bus.event_called(&api, "unwanted", n),
        })
        .collect();
    process.send(&many).await;
    assert_numbers(harness, take(&mut events, 3).await, [19, 39, 59]);
    nothing("the rest was not asked for", &mut events).await;
    if harness.capabilities().lag {
        eventually("what was skipped is not pending", async || {
            let lag = ok("asking for the lag", process.event.lag(&group, &asked)).await;
            (lag.pending == 0 && lag.waiting == 0).then_some(())
        })
        .await;
    }
}

/// Names, versions, headers and arguments arrive as they were sent: byte for byte.
pub async fn bytes_of_every_kind_survive(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let api = bus.name("bytes");
    let (sender, process) = (bus.process().await, bus.process().await);
    let mut spec = bus.listener(&api, "bytes");
    spec.events = vec![EventSelector::all(Name::clone(&api))];
    let mut events = process.listen(spec).await;

    let mut full = bus.event_called(&api, "größe_änderte_sich", 1);
    full.version = 7;
    full.fields = fields_of_every_kind(harness.largest());
    full.headers.set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    full.headers.set("x-empty", "");
    full.headers.set("x-unicode", "Grüße 世界");
    let mut empty = bus.event_called(&api, "empty", 2);
    empty.fields = crate::Arguments::new();
    sender.send(&[full.clone(), empty.clone()]).await;

    let mut found = [next(&mut events).await, next(&mut events).await];
    found.sort_by_key(|delivery| delivery.message.fields.is_empty());
    for (delivery, sent) in found.iter().zip([&full, &empty]) {
        let message = &*delivery.message;
        assert_eq!(message.id, sent.id);
        assert_eq!(message.api, sent.api);
        assert_eq!(message.event, sent.event);
        assert_eq!(message.version, sent.version);
        assert_same_fields(&message.fields, &sent.fields);
        for (name, value) in sent.headers.iter() {
            assert_eq!(message.headers.get(name), Some(&**value), "the header `{name}`");
        }
        assert!(message.native_id.is_some(), "the broker's name for the event is there");
    }
    for delivery in found {
        done(delivery).await;
    }
}

/// Sending an empty slice does nothing.
pub async fn sending_nothing_is_fine(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let process = bus.process().await;
    assert!(process.send(&[]).await.is_empty());
}

/// `send` gives the broker's name of each event, by which it is delivered.
pub async fn the_broker_names_each_event(harness: &dyn Harness) {
    let bus = Bus::new(harness);
    let (one, two) = (bus.name("one"), bus.name("two"));
    let process = bus.process().await;
    let mut spec = bus.listener(&one, "names");
    spec.events.push(EventSelector::one(Name::clone(&two), "happened"));
    let mut events = process.listen(spec).await;
    let sent: Vec<_> =
        (0..20).map(|n| bus.event(if n % 3 == 0 { &one } else { &two }, n)).collect();
    let ids = process.send(&sent).await;
    for _ in &sent {
        let delivery = next(&mut events).await;
        let n = delivery.message.number();
        assert_eq!(delivery.message.native_id.as_ref(), Some(&ids[n]), "of the event {n}");
        done(delivery).await;
    }
}

async fn history(events: &dyn EventTransport, spec: HistorySpec) -> Vec<EventMessage> {
    let stream = ok("reading the history", events.history(spec)).await;
    let found: Vec<_> = within("reading the history", stream.collect()).await;
    found.into_iter().map(|event| event.expect("an event of the history")).collect()
}

/// History is read newest first, whatever groups have taken, only what was selected.
pub async fn history_is_newest_first(harness: &dyn Harness) {
    if !harness.capabilities().history {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let mut events = process.listen(bus.listener(&api, "all")).await;
    for n in 0..30 {
        let unwanted = bus.event_called(&api, "other", 100 + n);
        process.send(&[bus.event(&api, n), unwanted]).await;
    }
    take(&mut events, 30).await;

    let all = |event| HistorySpec { events: event, from: None, until: None };
    let spec = all(EventSelector::one(Name::clone(&api), "happened"));
    let found = history(&*process.event, spec.clone()).await;
    let numbers: Vec<_> = found.iter().map(Numbered::number).collect();
    assert_eq!(numbers, (0..30).rev().collect::<Vec<_>>());
    assert_eq!(found[0].id, bus.event(&api, 29).id);

    let found = history(&*process.event, all(EventSelector::all(Name::clone(&api)))).await;
    assert_eq!(found.len(), 60, "all events of the API");

    // A reader may stop early, and what is not there is empty.
    let mut stream = ok("reading the history", process.event.history(spec)).await;
    assert!(within("reading the history", stream.next()).await.is_some());
    drop(stream);
    let nothing = history(&*process.event, all(EventSelector::all(bus.name("unknown")))).await;
    assert!(nothing.is_empty());
}

/// History keeps to the times that are asked for, the bounds included.
pub async fn history_keeps_its_bounds(harness: &dyn Harness) {
    if !harness.capabilities().history {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let process = bus.process().await;
    let spec =
        |from, until| HistorySpec { events: EventSelector::all(Name::clone(&api)), from, until };
    // At several moments, as the broker's clock tells them.
    let mut n = 0;
    let all = eventually("events of several moments", async || {
        process.send(&bus.events(&api, n..n + 3)).await;
        n += 3;
        let all = history(&*process.event, spec(None, None)).await;
        let moments: BTreeSet<_> = all.iter().map(time).collect();
        (moments.len() >= 4).then_some(all)
    })
    .await;
    let moments: Vec<_> = all.iter().map(time).collect::<BTreeSet<_>>().into_iter().collect();
    let expected = |from: Option<SystemTime>, until: Option<SystemTime>| -> Vec<_> {
        let within = |event: &&EventMessage| {
            from.is_none_or(|from| time(event) >= from)
                && until.is_none_or(|until| time(event) <= until)
        };
        all.iter().filter(within).map(Numbered::number).collect()
    };
    let far = Duration::from_secs(3600);
    for (from, until) in [
        (Some(moments[1]), None),
        (None, Some(moments[2])),
        (Some(moments[1]), Some(moments[2])),
        (Some(moments[0]), Some(moments[0])),
        (Some(moments[0] - far), Some(moments[3] + far)),
        (Some(moments[3] + far), None),
        (None, Some(moments[0] - far)),
    ] {
        let found = history(&*process.event, spec(from, until)).await;
        let numbers: Vec<_> = found.iter().map(Numbered::number).collect();
        assert_eq!(numbers, expected(from, until), "from {from:?} until {until:?}");
    }
}

/// When the broker took the event.
pub(super) fn time(event: &EventMessage) -> SystemTime {
    event.time.expect("a transport that starts or reads by time tells the time of its events")
}

/// Settles what is left to settle, and watches that nothing more comes.
pub(super) async fn settle_all(
    deliveries: impl IntoIterator<Item = crate::Delivery<EventMessage>>,
    outcome: Outcome,
) {
    for delivery in deliveries {
        ok("settling", delivery.ack.settle(outcome.clone())).await;
    }
}
