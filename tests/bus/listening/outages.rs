//! What a handler depends on goes away: nothing is dead-lettered for it, and one bad event is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use lightbus::{RetryPolicy, health::Condition, prelude::*, testing::TestBus};

use lightbus_tests::{Place, eventually, on_every_transport, soon};

use super::contracts::{Notes, Ordered, order, quick, register};

on_every_transport!(
    an_outage_dead_letters_nothing_and_is_seen_in_health,
    one_bad_event_among_good_ones_is_dead_lettered_after_its_tries,
    a_bad_event_on_its_own_is_dead_lettered,
    bad_events_one_after_the_other_are_dead_lettered_once_a_good_one_comes,
    a_batch_waits_out_an_outage_too,
    a_permanent_error_is_dead_lettered_at_once,
    a_handler_that_takes_too_long_has_failed,
    any_error_becomes_a_handlers_error,
);

/// What handlers depend on: away until it comes back.
#[derive(Clone, Default)]
struct Database {
    is_back: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
}

impl Database {
    fn away() -> Self {
        Self::default()
    }

    fn ask(&self) -> HandlerResult {
        if self.is_back.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        Err("the database is away".into())
    }

    fn come_back(&self) {
        self.is_back.store(true, Ordering::SeqCst);
    }

    /// A handler that asks it, and notes the event.
    fn needed_by_events(
        &self,
        notes: &Notes,
    ) -> impl Fn(Ordered) -> std::future::Ready<HandlerResult> + Send + Sync + use<> {
        let (asked, noted) = (self.clone(), notes.clone());
        move |event| std::future::ready(asked.ask().map(|()| noted.add(event.number.to_string())))
    }

    /// The same for events in batches.
    fn needed_by_batches(
        &self,
        notes: &Notes,
    ) -> impl Fn(Vec<Ordered>) -> std::future::Ready<HandlerResult> + Send + Sync + use<> {
        let (asked, noted) = (self.clone(), notes.clone());
        move |events| {
            let note = |event: &Ordered| noted.add(event.number.to_string());
            std::future::ready(asked.ask().map(|()| events.iter().for_each(note)))
        }
    }

    /// Waits until handlers have asked so often that the tries of an event, three, are used up several
    /// times over, though one event at a time asks.
    async fn is_asked_for_more_than_all_tries(&self) {
        let before = self.refused.load(Ordering::SeqCst);
        let asked = async || self.refused.load(Ordering::SeqCst) >= before + 8;
        eventually("the database is asked again and again", asked).await;
    }
}

/// So many tries that other events arrive before those of the first are used up: an event that fails
/// alone is bad, and no outage.
fn outlasting(attempts: u32) -> RetryPolicy {
    let wait = Duration::from_millis(800);
    RetryPolicy::attempts(attempts).backoff(wait, wait)
}

async fn letters(bus: &Bus) -> Vec<(u64, u32, String)> {
    let letters = bus.admin().dead_letters("shop", "watch", 100).await.unwrap();
    let number = |letter: &lightbus::DeadLetter| {
        serde_json::from_slice(letter.event.fields.get("number").unwrap()).unwrap()
    };
    let all = letters.iter();
    all.map(|letter| (number(letter), letter.attempts, letter.reason.clone())).collect()
}

async fn an_outage_dead_letters_nothing_and_is_seen_in_health(place: Place) {
    for concurrency in [1, 4] {
        let bus = place.bus("shop").await;
        register(&bus).await;
        let (database, notes) = (Database::away(), Notes::default());
        let name = format!("watch{concurrency}");
        bus.listen(&name, database.needed_by_events(&notes))
            .concurrency(concurrency)
            .on_error(OnError::Retry(outlasting(3)))
            .await
            .unwrap();
        for number in 0..20 {
            order(&bus, &format!("customer {number}"), number).await;
        }
        let failing = |bus: &Bus| {
            let health = bus.health();
            !health.healthy && health.parts.iter().any(|part| part.condition == Condition::Failing)
        };
        eventually("the breaker opens", async || failing(&bus)).await;
        database.is_asked_for_more_than_all_tries().await;
        assert!(failing(&bus));
        database.come_back();
        eventually("all are handled", async || notes.all().len() == 20).await;
        assert_eq!(notes.sorted(), (0..20).collect::<Vec<_>>());
        assert!(bus.health().healthy);
        let letters = bus.admin().dead_letters("shop", &name, 100).await.unwrap();
        assert!(letters.is_empty(), "{letters:?}");
        soon("closing", bus.close()).await.unwrap();
    }
}

/// Listens with a handler that fails for numbers that are multiples of ten, and counts its runs.
async fn watch(bus: &Bus, concurrency: usize, policy: RetryPolicy) -> (Notes, Arc<AtomicUsize>) {
    let (notes, runs) = (Notes::default(), Arc::new(AtomicUsize::new(0)));
    let (noted, count) = (notes.clone(), Arc::clone(&runs));
    bus.listen("watch", move |event: Ordered| {
        let (noted, count) = (noted.clone(), Arc::clone(&count));
        async move {
            if event.number.is_multiple_of(10) {
                count.fetch_add(1, Ordering::SeqCst);
                return Err(HandlerError::new("bad"));
            }
            noted.add(event.number.to_string());
            Ok(())
        }
    })
    .concurrency(concurrency)
    .on_error(OnError::Retry(policy))
    .await
    .unwrap();
    (notes, runs)
}

async fn one_bad_event_among_good_ones_is_dead_lettered_after_its_tries(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (notes, runs) = watch(&bus, 1, quick(3)).await;
    for number in [1, 10, 2, 3] {
        order(&bus, "anna", number).await;
    }
    bus.wait_until_idle().await.unwrap();
    assert_eq!(notes.all(), ["1", "2", "3"]);
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    assert_eq!(letters(&bus).await, [(10, 3, "bad".to_owned())]);
}

async fn a_bad_event_on_its_own_is_dead_lettered(place: Place) {
    for concurrency in [1, 4] {
        let bus = place.bus("shop").await;
        register(&bus).await;
        let (_, runs) = watch(&bus, concurrency, quick(3)).await;
        order(&bus, "anna", 10).await;
        bus.wait_until_idle().await.unwrap();
        assert_eq!(runs.load(Ordering::SeqCst), 3);
        assert_eq!(letters(&bus).await.len(), if concurrency == 1 { 1 } else { 2 });
        soon("closing", bus.close()).await.unwrap();
    }
}

async fn bad_events_one_after_the_other_are_dead_lettered_once_a_good_one_comes(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (notes, _) = watch(&bus, 1, quick(2)).await;
    for number in [10, 20, 30, 1, 40, 2] {
        order(&bus, "anna", number).await;
    }
    // Which of them arrive together differs, so further good ones come until all bad ones are known.
    eventually("the bad ones are dead-lettered", async || {
        order(&bus, "anna", 3).await;
        letters(&bus).await.len() == 4
    })
    .await;
    let mut bad: Vec<u64> = letters(&bus).await.into_iter().map(|(number, ..)| number).collect();
    bad.sort_unstable();
    assert_eq!(bad, [10, 20, 30, 40]);
    eventually("the good ones are handled", async || {
        let good = notes.sorted();
        [1, 2, 3].iter().all(|number| good.contains(number))
    })
    .await;
}

async fn a_batch_waits_out_an_outage_too(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (database, notes) = (Database::away(), Notes::default());
    bus.listen_in_batches("watch", database.needed_by_batches(&notes))
        .batch(5, Duration::from_millis(20))
        .on_error(OnError::Retry(outlasting(3)))
        .await
        .unwrap();
    for number in 0..20 {
        order(&bus, "anna", number).await;
    }
    eventually("the breaker opens", async || !bus.health().healthy).await;
    database.is_asked_for_more_than_all_tries().await;
    database.come_back();
    eventually("all are handled", async || notes.all().len() == 20).await;
    assert_eq!(letters(&bus).await, []);
}

async fn a_permanent_error_is_dead_lettered_at_once(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    bus.listen("watch", move |_: Ordered| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Err(HandlerError::permanent("there is no such customer")) }
    })
    .await
    .unwrap();
    for number in 0..3 {
        order(&bus, "anna", number).await;
    }
    bus.wait_until_idle().await.unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 3);
    let letters = letters(&bus).await;
    assert_eq!(letters.len(), 3);
    assert_eq!(letters[0], (0, 1, "there is no such customer".to_owned()));
}

async fn a_handler_that_takes_too_long_has_failed(place: Place) {
    let bus = place.bus("shop").await;
    register(&bus).await;
    let (runs, notes) = (Arc::new(AtomicUsize::new(0)), Notes::default());
    let (count, noted) = (Arc::clone(&runs), notes.clone());
    bus.listen("watch", move |event: Ordered| {
        let (first, noted) = (count.fetch_add(1, Ordering::SeqCst) == 0, noted.clone());
        async move {
            if first {
                std::future::pending::<()>().await;
            }
            noted.add(event.number.to_string());
            Ok(())
        }
    })
    .timeout(Duration::from_millis(50))
    .on_error(OnError::Retry(quick(3)))
    .await
    .unwrap();
    order(&bus, "anna", 1).await;
    bus.wait_until_idle().await.unwrap();
    assert_eq!(notes.all(), ["1"]);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

async fn any_error_becomes_a_handlers_error(place: Place) {
    fn boxed() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("in a box".into())
    }
    let bus = place.bus("shop").await;
    register(&bus).await;
    bus.listen("watch", |event: Ordered| async move {
        match event.number {
            0 => boxed()?,
            1 => return Err("a word".into()),
            2 => Err(std::io::Error::other("from outside"))?,
            _ => return Err(format!("number {}", event.number).into()),
        }
        Ok(())
    })
    .on_error(super::contracts::tries(1))
    .await
    .unwrap();
    for number in 0..4 {
        order(&bus, "anna", number).await;
    }
    bus.wait_until_idle().await.unwrap();
    let mut reasons: Vec<String> = letters(&bus).await.into_iter().map(|(.., why)| why).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["a word", "from outside", "in a box", "number 3"]);
}

/// Here nothing waits for a broker: the time that passes is that of the bus.
#[tokio::test(start_paused = true)]
async fn a_listener_in_an_outage_is_not_restarted_as_stalled() {
    let bus = Place::memory().unwrap().bus("shop").await;
    register(&bus).await;
    let (database, notes) = (Database::away(), Notes::default());
    bus.listen("watch", database.needed_by_events(&notes)).await.unwrap();
    for number in 0..1000 {
        order(&bus, "anna", number).await;
    }
    tokio::time::sleep(Duration::from_secs(540)).await;
    let health = bus.health();
    assert_eq!(health.parts[0].condition, Condition::Failing, "{health:?}");
    assert_eq!(health.parts[0].restarts, 0, "{health:?}");
    database.come_back();
    eventually("all are handled", async || notes.all().len() == 1000).await;
    assert_eq!(letters(&bus).await, []);
}

/// Nothing waits for a broker here: the time that passes is that of the bus.
async fn poison(batches: bool, numbers: &[u32]) -> (Bus, Arc<AtomicUsize>) {
    let bus = Place::memory().unwrap().bus("shop").await;
    register(&bus).await;
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let fails = move |bad: bool| {
        count.fetch_add(usize::from(bad), Ordering::SeqCst);
        if bad { Err(HandlerError::new("bad")) } else { Ok(()) }
    };
    let is_bad = |event: &Ordered| event.number.is_multiple_of(10);
    if batches {
        bus.listen_in_batches("watch", move |events: Vec<Ordered>| {
            let failed = fails(events.iter().any(is_bad));
            async { failed }
        })
        .await
        .unwrap();
    } else {
        bus.listen("watch", move |event: Ordered| {
            let failed = fails(is_bad(&event));
            async { failed }
        })
        .await
        .unwrap();
    }
    for number in numbers {
        order(&bus, "anna", *number).await;
    }
    (bus, runs)
}

#[tokio::test(start_paused = true)]
async fn bad_events_with_nothing_behind_them_are_dead_lettered_after_the_longest_outage() {
    for batches in [false, true] {
        for numbers in [&[10, 20][..], &[10, 20, 30, 40, 50, 60, 70]] {
            let (bus, _) = poison(batches, numbers).await;
            tokio::time::sleep(Duration::from_secs(590)).await;
            assert_eq!(letters(&bus).await, [], "an outage of less dead-letters nothing");
            assert_eq!(bus.health().parts[0].condition, Condition::Failing);
            // Those that joined late have their own time.
            tokio::time::sleep(Duration::from_secs(1900)).await;
            let mut bad: Vec<u64> = letters(&bus).await.into_iter().map(|(n, ..)| n).collect();
            bad.sort_unstable();
            assert_eq!(
                bad,
                numbers.iter().map(|n| u64::from(*n)).collect::<Vec<_>>(),
                "{batches} {:?}",
                bus.health()
            );
        }
    }
}

/// The breaker opens on the second, as no event was handled since the first: what comes later must be
/// tried although only the second is at work.
#[tokio::test(start_paused = true)]
async fn bad_events_that_came_alone_do_not_keep_a_good_one_waiting() {
    for batches in [false, true] {
        let (bus, _) = poison(batches, &[10]).await;
        eventually("the first is given up", async || letters(&bus).await.len() == 1).await;
        order(&bus, "anna", 20).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(letters(&bus).await.len(), 1, "nothing tells yet whether it is bad");
        order(&bus, "anna", 1).await;
        tokio::time::sleep(Duration::from_secs(240)).await;
        assert_eq!(letters(&bus).await.len(), 2, "{batches} {:?}", bus.health());
        assert!(bus.health().healthy, "{batches} {:?}", bus.health());
    }
}

/// The first event of an outage is at work alone: those that came while it was tried tell that it is no
/// bad one.
#[tokio::test(start_paused = true)]
async fn an_event_that_was_alone_in_its_batch_waits_out_an_outage() {
    let bus = Place::memory().unwrap().bus("shop").await;
    register(&bus).await;
    let (database, notes) = (Database::away(), Notes::default());
    bus.listen_in_batches("watch", database.needed_by_batches(&notes))
        .on_error(OnError::Retry(outlasting(3)))
        .await
        .unwrap();
    order(&bus, "anna", 0).await;
    eventually("it is tried", async || database.refused.load(Ordering::SeqCst) > 0).await;
    order(&bus, "anna", 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    database.come_back();
    eventually("all are handled", async || notes.all().len() == 2).await;
    assert_eq!(letters(&bus).await, []);
}

#[tokio::test(start_paused = true)]
async fn bad_events_of_a_batch_are_dead_lettered_once_a_good_one_comes() {
    let (bus, _) = poison(true, &[10, 20]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(letters(&bus).await, []);
    order(&bus, "anna", 1).await;
    tokio::time::sleep(Duration::from_secs(240)).await;
    assert_eq!(letters(&bus).await.len(), 2);
    order(&bus, "anna", 2).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bus.health().healthy, "{:?}", bus.health());
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_two_minutes_dead_letters_nothing_with_default_settings() {
    for batches in [false, true] {
        let bus = Place::memory().unwrap().bus("shop").await;
        register(&bus).await;
        let (away, notes) = (Arc::new(AtomicBool::new(true)), Notes::default());
        let (is_away, noted) = (Arc::clone(&away), notes.clone());
        let handle = move |events: Vec<Ordered>| {
            if is_away.load(Ordering::SeqCst) {
                return Err(HandlerError::new("the database is away"));
            }
            events.iter().for_each(|event| noted.add(event.number.to_string()));
            Ok(())
        };
        if batches {
            let listen = bus.listen_in_batches("watch", move |events: Vec<Ordered>| {
                std::future::ready(handle(events))
            });
            listen.batch(30, Duration::from_millis(20)).await.unwrap();
        } else {
            let listen =
                bus.listen("watch", move |event: Ordered| std::future::ready(handle(vec![event])));
            listen.await.unwrap();
        }
        for number in 0..100 {
            order(&bus, "anna", number).await;
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        away.store(false, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(notes.sorted(), (0..100).collect::<Vec<_>>(), "{batches}");
        assert_eq!(letters(&bus).await, []);
        assert!(bus.health().healthy);
    }
}

/// Events that were at work in processes that died are handled one after the other: the one that waits
/// for what it needs and the one behind it must not wait for each other.
#[tokio::test(start_paused = true)]
async fn events_of_processes_that_died_go_on_as_soon_as_an_outage_is_over() {
    for concurrency in [1, 4] {
        for outage in [3, 30, 100] {
            let test = TestBus::start().await.unwrap();
            for round in 0..2 {
                let dying = test.process("shop").await.unwrap();
                register(&dying).await;
                let begun = Arc::new(AtomicUsize::new(0));
                let count = Arc::clone(&begun);
                let hangs = move |_: Ordered| {
                    count.fetch_add(1, Ordering::SeqCst);
                    std::future::pending()
                };
                dying.listen("watch", hangs).concurrency(concurrency).await.unwrap();
                if round == 0 {
                    for number in 0..4 {
                        order(&dying, &format!("customer {number}"), number).await;
                    }
                }
                let at_work = async || begun.load(Ordering::SeqCst) == concurrency;
                eventually("they are at work", at_work).await;
                test.kill(dying);
            }
            let bus = test.process("shop").await.unwrap();
            register(&bus).await;
            let (database, notes) = (Database::away(), Notes::default());
            bus.listen("watch", database.needed_by_events(&notes))
                .concurrency(concurrency)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_secs(outage)).await;
            database.come_back();
            let began = tokio::time::Instant::now();
            eventually("all are handled", async || notes.all().len() == 4).await;
            let took = began.elapsed();
            assert!(took <= Duration::from_secs(21), "{concurrency}: {took:?} after {outage} s");
            assert_eq!(letters(&bus).await, []);
        }
    }
}
