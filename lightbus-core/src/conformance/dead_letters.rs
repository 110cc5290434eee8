//! Events: what becomes of those that could not be handled.
//!
//! Reading page by page, removing and giving back are no capabilities: a transport that cannot answers
//! `Unsupported`, whatever it is asked for, and the case says so.

use std::time::Duration;

use super::{
    Harness,
    kit::{Bus, Numbered, Process, done, eventually, next, nothing, nothing_within, ok, within},
};
use crate::{
    ErrorKind, EventMessage, Name, Outcome, Rejection, Result, Subscription,
    transport::{DeadLetter, GroupSpec, ListenSpec},
};

/// A group that has rejected as many events as asked for.
struct Group {
    process: Process,
    spec: GroupSpec,
    events: Subscription<EventMessage>,
}

impl Group {
    async fn new(bus: &Bus<'_>, spec: ListenSpec) -> Self {
        let process = bus.process().await;
        let group = spec.group.clone();
        let events = process.listen(spec).await;
        Self { process, spec: group, events }
    }

    /// A group of the same service that does not exist.
    fn unknown(&self) -> GroupSpec {
        GroupSpec::new(Name::clone(&self.spec.service), "unknown")
    }

    /// Rejects the next events, one after the other.
    async fn reject(&mut self, count: usize) {
        for _ in 0..count {
            let delivery = next(&mut self.events).await;
            let outcome = Outcome::Reject(Rejection::new("no place"));
            ok("settling", delivery.ack.settle(outcome)).await;
        }
    }

    /// All dead letters, when there are as many.
    async fn letters(&self, count: usize) -> Vec<DeadLetter> {
        eventually(&format!("there are {count} dead letters"), async || {
            let letters = self.process.dead_letters().list(&self.spec, None, 100);
            let letters = ok("reading dead letters", letters).await;
            (letters.len() == count).then_some(letters)
        })
        .await
    }
}

/// `None`, with a printed line, where the transport cannot.
fn supported<T>(what: &str, answer: Result<T>) -> Option<T> {
    match answer {
        Ok(answer) => Some(answer),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{what}: {error:?}");
            assert!(!error.is_temporary(), "{what}: trying again is useless");
            println!("not applicable: {what}: {error}");
            None
        }
    }
}

fn numbers(letters: &[DeadLetter]) -> Vec<usize> {
    letters.iter().map(|letter| letter.event.number()).collect()
}

fn ids(letters: &[DeadLetter]) -> Vec<Name> {
    letters.iter().map(|letter| Name::clone(&letter.id)).collect()
}

/// Dead letters are read page by page, oldest first, also where the last one of a page is gone.
pub async fn dead_letters_are_read_page_by_page(harness: &dyn Harness) {
    if !harness.capabilities().dead_letters {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let mut group = Group::new(&bus, bus.listener(&api, "mail")).await;
    group.process.send(&bus.events(&api, 0..7)).await;
    group.reject(7).await;
    let all = group.letters(7).await;
    let transport = group.process.dead_letters();
    let after = async |last: &DeadLetter, limit| {
        within("a page", transport.list(&group.spec, Some(&last.id), limit)).await
    };
    let first = ok("reading", transport.list(&group.spec, None, 3)).await;
    assert_eq!(ids(&first), ids(&all[..3]));
    let Some(second) = supported("dead letters page by page", after(&first[2], 3).await) else {
        return;
    };
    assert_eq!(ids(&second), ids(&all[3..6]), "the page after {:?}", numbers(&first));
    let third = ok("reading", async { after(&second[2], 3).await }).await;
    assert_eq!(ids(&third), ids(&all[6..]));
    assert!(ok("reading", async { after(&third[0], 3).await }).await.is_empty(), "the end");

    let gone = &ids(&second)[2..];
    let removed = within("removing", transport.remove(&group.spec, gone));
    if supported("removing dead letters", removed.await).is_some() {
        let third = ok("reading", async { after(&second[2], 3).await }).await;
        assert_eq!(ids(&third), ids(&all[6..]), "the page after a letter that is gone");
    }
}

/// Dead letters are removed by their ids, and stay removed; others stay.
pub async fn dead_letters_are_removed_one_by_one(harness: &dyn Harness) {
    if !harness.capabilities().dead_letters {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let mut group = Group::new(&bus, bus.listener(&api, "mail")).await;
    group.process.send(&bus.events(&api, 0..4)).await;
    group.reject(4).await;
    let all = group.letters(4).await;
    let remove = async |ids: &[Name]| {
        let removed = group.process.dead_letters().remove(&group.spec, ids);
        within("removing dead letters", removed).await
    };
    let Some(none) = supported("removing dead letters", remove(&[]).await) else {
        let error = remove(&ids(&all)).await;
        assert!(supported("removing dead letters", error).is_none(), "one answer always");
        return;
    };
    assert_eq!(none, 0);
    let middle = &ids(&all)[1..3];
    assert_eq!(ok("removing", async { remove(middle).await }).await, 2);
    assert_eq!(ids(&group.letters(2).await), [&ids(&all)[..1], &ids(&all)[3..]].concat());
    assert_eq!(ok("removing again", async { remove(middle).await }).await, 0);
    let unknown = group.unknown();
    let none = group.process.dead_letters().remove(&unknown, middle);
    assert_eq!(ok("removing those of an unknown group", none).await, 0);
    group.letters(2).await;
}

/// A dead letter that is given back is redelivered to the group that set it aside, the same and as if for
/// the first time, and to no other group.
pub async fn a_retried_dead_letter_comes_again_to_its_group_alone(harness: &dyn Harness) {
    if !harness.capabilities().dead_letters {
        return super::transport::what_is_absent_is_unsupported(harness).await;
    }
    let bus = Bus::new(harness);
    let api = bus.name("orders");
    let mut group = Group::new(&bus, bus.listener(&api, "mail")).await;
    let mut other = Group::new(&bus, bus.listener(&api, "audit")).await;
    let sent = bus.events(&api, 0..3);
    group.process.send(&sent).await;
    group.reject(3).await;
    for _ in 0..3 {
        done(next(&mut other.events).await).await;
    }
    let all = group.letters(3).await;
    let (mail, unknown) = (group.spec.clone(), group.unknown());
    let requeue = async |group_spec, ids: &[Name]| {
        let requeued = group.process.dead_letters().requeue(group_spec, ids);
        within("requeuing dead letters", requeued).await
    };
    let Some(none) = supported("giving dead letters back", requeue(&mail, &[]).await) else {
        let error = requeue(&mail, &ids(&all)).await;
        assert!(supported("giving dead letters back", error).is_none(), "one answer always");
        return;
    };
    assert_eq!(none, 0);
    let all_ids = ids(&all);
    assert_eq!(ok("requeueing those of an unknown group", requeue(&unknown, &all_ids)).await, 0);
    let both = [Name::clone(&all[0].id), Name::clone(&all[2].id)];
    assert_eq!(ok("giving back", requeue(&mail, &both)).await, 2);

    let mut again = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut group.events).await;
        let n = delivery.message.number();
        again.push(n);
        assert_eq!(delivery.message.id, sent[n].id);
        assert_eq!(delivery.message.fields, sent[n].fields);
        assert_eq!(delivery.message.native_id, all[n].event.native_id, "the broker's name for it");
        assert!(delivery.message.attempt <= 1, "counted again: {}", delivery.message.attempt);
        done(delivery).await;
    }
    again.sort_unstable();
    assert_eq!(again, [0, 2]);
    assert_eq!(ids(&group.letters(1).await), ids(&all[1..2]), "it is no dead letter any more");
    assert_eq!(ok("giving back again", requeue(&mail, &both)).await, 0);

    // Rejected again it is a dead letter again; without a member it waits for one.
    assert_eq!(ok("giving back", requeue(&mail, &all_ids[1..2])).await, 1);
    group.reject(1).await;
    let letters = group.letters(1).await;
    assert_eq!(numbers(&letters), [1]);
    let Group { process, spec, events } = group;
    ok("closing", events.close()).await;
    let rejected = ids(&letters);
    let given = process.dead_letters().requeue(&spec, &rejected);
    assert_eq!(ok("giving back", given).await, 1);
    let mut late = Group::new(&bus, bus.listener(&api, "mail")).await;
    let delivery = next(&mut late.events).await;
    assert_eq!(delivery.message.number(), 1);
    done(delivery).await;

    let long = harness.taken_over_after().mul_f64(1.5) + Duration::from_millis(100);
    nothing_within("it was handled", &mut late.events, long).await;
    nothing("the other group has handled it before", &mut other.events).await;
    late.letters(0).await;
}
