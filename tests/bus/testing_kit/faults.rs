//! Things that go wrong by seed, and what code that keeps to the promises makes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use lightbus::{
    ErrorKind, Retry,
    prelude::*,
    testing::{Fault, Faults, TestBus},
};

use super::contracts::*;

/// What a listener got: the payer of each delivery, in order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, u32)>>>);

impl Seen {
    fn amounts(&self) -> Vec<u32> {
        self.0.lock().unwrap().iter().map(|(_, amount)| *amount).collect()
    }

    fn each_id(&self) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for (id, _) in &*self.0.lock().unwrap() {
            *ids.entry(id.clone()).or_default() += 1;
        }
        ids
    }
}

async fn listen(bus: &Bus) -> Seen {
    let seen = Seen::default();
    let seer = seen.clone();
    bus.listen("watch", move |paid: Received<Paid>| {
        seer.0.lock().unwrap().push((paid.id().to_owned(), paid.amount));
        async { Ok(()) }
    })
    .await
    .unwrap();
    seen
}

async fn start(faults: Faults) -> TestBus {
    let test = TestBus::builder().faults(faults).start().await.unwrap();
    test.register(TillClient::contract()).await.unwrap();
    test
}

async fn fire(test: &TestBus, count: u32) -> u32 {
    let mut confirmed = 0;
    for amount in 0..count {
        match test.fire(Paid { amount }).await {
            Ok(_) => confirmed += 1,
            Err(error) => assert_eq!(error.retryable(), Retry::MayDuplicate, "{error}"),
        }
    }
    confirmed
}

#[tokio::test]
async fn whatever_happens_every_confirmed_event_is_handled() {
    let test = start(Faults::seeded(7).all(0.3)).await;
    let (mail, stats) = (test.process("mail").await.unwrap(), test.process("stats").await.unwrap());
    let seen = [listen(&mail).await, listen(&stats).await];
    // Waits are real on a broker.
    let count = if test.is_in_memory() { 200 } else { 60 };
    let confirmed = fire(&test, count).await;
    assert!((count / 4..count).contains(&confirmed), "{confirmed}");
    test.wait_until_idle().await.unwrap();
    test.assert_fired::<Paid>(confirmed as usize);
    let fired: BTreeSet<_> = test.fired::<Paid>().iter().map(|paid| paid.amount).collect();
    for seen in seen {
        let seen: BTreeSet<_> = seen.amounts().into_iter().collect();
        assert!(fired.is_subset(&seen), "lost: {:?}", fired.difference(&seen));
    }
    for fault in [
        Fault::Drop,
        Fault::Duplicate,
        Fault::Reorder,
        Fault::Delay,
        Fault::Disconnect,
        Fault::Redeliver,
    ] {
        assert!(test.faults().unwrap().count(fault) > 3, "{fault:?} happens");
    }
}

#[tokio::test]
async fn the_same_seed_has_the_same_faults() {
    if std::env::var(lightbus::testing::SEED_VARIABLE).is_ok() {
        return;
    }
    let run = async |seed| {
        let test = start(Faults::seeded(seed).all(0.2)).await;
        let seen = listen(&test).await;
        fire(&test, 100).await;
        test.wait_until_idle().await.unwrap();
        let mut happened = test.faults().unwrap().happened();
        // What happens is the same; when a retry's wait ends depends on a jitter that has no seed.
        happened.sort_unstable();
        let mut amounts = seen.amounts();
        amounts.sort_unstable();
        (happened, amounts)
    };
    let (first, second, other) = (run(3).await, run(3).await, run(4).await);
    assert_eq!(first, second);
    assert_ne!(first.0, other.0);
}

#[tokio::test]
async fn a_dropped_delivery_comes_again_however_often_it_fails() {
    let test = start(Faults::seeded(1).drops(1.0)).await;
    let seen = listen(&test).await;
    fire(&test, 3).await;
    test.wait_until_idle().await.unwrap();
    let mut amounts = seen.amounts();
    amounts.sort_unstable();
    assert_eq!(amounts, [0, 1, 2]);
    assert_eq!(test.faults().unwrap().count(Fault::Drop), 15);
}

#[tokio::test]
async fn an_event_may_come_twice_under_one_id() {
    for faults in [Faults::seeded(1).duplicates(1.0), Faults::seeded(1).redelivers(1.0)] {
        let test = start(faults).await;
        let seen = listen(&test).await;
        fire(&test, 20).await;
        test.wait_until_idle().await.unwrap();
        let ids = seen.each_id();
        assert_eq!(ids.len(), 20);
        assert!(ids.values().all(|times| *times == 2), "{ids:?}");
        test.assert_fired::<Paid>(20);
    }
}

#[tokio::test]
async fn late_and_passing_events_of_one_api_keep_their_order() {
    let test = start(Faults::seeded(1).delays(0.5).reorders(0.5)).await;
    let seen = listen(&test).await;
    fire(&test, 100).await;
    test.wait_until_idle().await.unwrap();
    assert_eq!(seen.amounts(), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn events_of_another_api_may_pass() {
    let test = start(Faults::seeded(1).reorders(0.5)).await;
    test.register(AuthClient::contract()).await.unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let names = Arc::clone(&order);
    test.listen_to("both", ["shop.till.*", "auth.*"], move |event| {
        names.lock().unwrap().push(event.event.to_string());
        async { Ok(()) }
    })
    .await
    .unwrap();
    let sent: Vec<_> = (0..40).map(|n| ["paid", "user_registered"][n % 2].to_owned()).collect();
    for amount in 0..20 {
        test.fire(Paid { amount }).await.unwrap();
        test.fire(sally()).await.unwrap();
    }
    test.wait_until_idle().await.unwrap();
    let mut order = order.lock().unwrap().clone();
    assert_ne!(order, sent);
    order.sort_unstable();
    assert_eq!(order.iter().filter(|name| *name == "paid").count(), 20);
}

struct Counting(Arc<Mutex<BTreeMap<u32, usize>>>);

impl Till for Counting {
    async fn pay(&self, amount: u32) -> Result<u32, Declined> {
        *self.0.lock().unwrap().entry(amount).or_default() += 1;
        Ok(amount)
    }
}

#[tokio::test]
async fn a_call_may_be_lost_and_never_runs_twice() {
    let test = start(Faults::seeded(11).all(0.2)).await;
    let runs = Arc::default();
    let server = test.process("till").await.unwrap();
    server.serve(TillApi(Counting(Arc::clone(&runs)))).await.unwrap();
    let limit = Duration::from_millis(if test.is_in_memory() { 5000 } else { 3000 });
    let calls = (0..100).map(|amount| {
        let call = TillClient::new(&test).pay(amount).timeout(limit);
        async move { (amount, call.await.map_err(lightbus::Error::from)) }
    });
    let answers = futures_util::future::join_all(calls).await;
    test.wait_until_idle().await.unwrap();
    let runs = runs.lock().unwrap();
    assert!(runs.values().all(|times| *times == 1), "{runs:?}");
    let mut kinds = BTreeMap::new();
    for (amount, answer) in answers {
        let kind = match answer {
            Ok(answer) => {
                assert_eq!(answer, amount);
                assert!(runs.contains_key(&amount));
                "answered"
            }
            Err(error) => error.kind().as_str(),
        };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    assert!(kinds["answered"] > 20, "{kinds:?}");
    assert!(kinds["timeout"] > 5 && kinds["unavailable"] > 5, "{kinds:?}");
    assert_eq!(kinds.len(), 3, "{kinds:?}");
}

#[tokio::test]
async fn a_lost_call_times_out() {
    let test = start(Faults::seeded(1).drops(1.0)).await;
    test.serve(TillApi(Counting(Arc::default()))).await.unwrap();
    let call = TillClient::new(&test).pay(1).timeout(Duration::from_millis(300));
    let error = lightbus::Error::from(call.await.unwrap_err());
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(test.faults().unwrap().happened(), ["Drop: call shop.till.pay #1"]);
}

#[tokio::test]
async fn faults_go_around_the_transports_of_any_registry() {
    let faults = Faults::seeded(1).disconnects(1.0);
    let _guard = faults.guard();
    let config = lightbus::config::Config::from_yaml("service_name: shop").unwrap();
    let registry = faults.around(&lightbus::registry());
    let bus = Bus::builder().config(config).registry(registry).connect().await.unwrap();
    bus.register(TillClient::contract()).await.unwrap();
    let error = bus.fire(Paid { amount: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// Fails only if it is told to: by the next test.
#[tokio::test]
async fn fails_when_told_to() {
    let Ok(how) = std::env::var("TESTING_KIT_FAILS") else { return };
    let test = start(Faults::seeded(5).drops(1.0)).await;
    let seen = listen(&test).await;
    fire(&test, 1).await;
    test.wait_until_idle().await.unwrap();
    if how == "assertion" {
        test.assert_fired::<Paid>(2);
    }
    assert!(seen.amounts().is_empty(), "as asked");
}

#[test]
fn a_failed_test_prints_its_seed_and_the_environment_sets_it() {
    for how in ["panic", "assertion"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "testing_kit::faults::fails_when_told_to"])
            .env("TESTING_KIT_FAILS", how)
            .env(lightbus::testing::SEED_VARIABLE, "4711")
            .output()
            .unwrap();
        assert!(!output.status.success());
        let printed = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        let seed = "by seed 4711: LIGHTBUS_TEST_SEED=4711 reproduces them";
        assert!(printed.contains(seed), "{printed}");
        assert!(printed.contains("Drop: delivering shop.till.paid #1 to test-watch"), "{printed}");
    }
}
