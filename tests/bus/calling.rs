//! Calling: deadlines that shrink, places that are freed, limits, on every transport by the same
//! source.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use lightbus::{ErrorKind, Retry, prelude::*};
use lightbus_tests::{Place, eventually, on_every_transport, soon};
use tokio::sync::{Semaphore, mpsc};

#[lightbus::api(name = "back")]
pub trait Back {
    /// Ends when the test allows it.
    async fn wait(&self, number: u32) -> u32;
    /// Keeps its whole thread busy.
    async fn block(&self, milliseconds: u64) -> bool;
}

#[lightbus::api(name = "front", events(Asked))]
pub trait Front {
    /// Asks `back`, and would wait for a minute.
    async fn ask(&self, number: u32) -> Result<u32, String>;
    /// Fires `asked`.
    async fn tell(&self, number: u32) -> Result<(), String>;
}

#[derive(Clone, Debug, lightbus::Event)]
pub struct Asked {
    pub number: u32,
}

struct Waiting {
    begun: mpsc::Sender<u32>,
    go: Arc<Semaphore>,
    blocked: Arc<AtomicUsize>,
}

impl Back for Waiting {
    async fn wait(&self, number: u32) -> u32 {
        let _ = self.begun.send(number).await;
        self.go.acquire().await.unwrap().forget();
        number
    }

    async fn block(&self, milliseconds: u64) -> bool {
        self.blocked.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(milliseconds));
        true
    }
}

/// What a test sees of a service, and how it lets it go on.
struct Seen {
    begun: mpsc::Receiver<u32>,
    go: Arc<Semaphore>,
    blocked: Arc<AtomicUsize>,
}

fn waiting() -> (Waiting, Seen) {
    let (sender, begun) = mpsc::channel(100);
    let (go, blocked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let service = Waiting { begun: sender, go: Arc::clone(&go), blocked: Arc::clone(&blocked) };
    (service, Seen { begun, go, blocked })
}

struct Asking {
    bus: Bus,
    answers: mpsc::Sender<(Duration, ErrorKind)>,
}

impl Front for Asking {
    async fn ask(&self, number: u32) -> Result<u32, String> {
        let began = Instant::now();
        let call = BackClient::new(&self.bus).wait(number).timeout(Duration::from_secs(60));
        match call.await {
            Ok(number) => Ok(number),
            Err(error) => {
                let _ = self.answers.send((began.elapsed(), error.kind())).await;
                Err(error.to_string())
            }
        }
    }

    async fn tell(&self, number: u32) -> Result<(), String> {
        let fired = self.bus.fire(Asked { number }).await;
        fired.map(drop).map_err(|error| error.to_string())
    }
}

on_every_transport!(
    a_nested_call_waits_no_longer_than_the_outermost_caller,
    procedures_fire_and_listeners_call,
    a_dropped_call_frees_its_place_at_once,
    a_call_that_finds_no_place_says_so_and_sends_nothing,
    no_more_calls_run_at_once_than_configured,
    a_timeout_of_an_api_and_of_a_call,
    procedures_call_their_own_process_with_all_slots_taken,
);

async fn a_nested_call_waits_no_longer_than_the_outermost_caller(place: Place) {
    let (back, front, caller) =
        (place.bus("back").await, place.bus("front").await, place.bus("web").await);
    let (service, mut seen) = waiting();
    back.serve(BackApi(service)).await.unwrap();
    let (answers, mut answered) = mpsc::channel(1);
    front.serve(FrontApi(Asking { bus: front.clone(), answers })).await.unwrap();
    let ask = FrontClient::new(&caller).ask(1).timeout(Duration::from_secs(2));
    let error = soon("giving up", ask.into_future()).await.unwrap_err();
    assert!(error.to_string().contains("no result arrived in time"), "{error}");
    assert_eq!(lightbus::Error::from(error).retryable(), Retry::MayDuplicate);
    assert_eq!(soon("the nested call", seen.begun.recv()).await, Some(1));
    let (took, kind) = soon("giving up inside", answered.recv()).await.unwrap();
    assert_eq!(kind, ErrorKind::Timeout);
    assert!(took <= Duration::from_secs(10), "a minute was asked for, {took:?} were left");
    // With time enough the same goes through.
    seen.go.add_permits(2);
    let ask = FrontClient::new(&caller).ask(2);
    assert_eq!(soon("asking", ask.into_future()).await.unwrap(), 2);
}

async fn procedures_fire_and_listeners_call(place: Place) {
    let (back, front, caller) =
        (place.bus("back").await, place.bus("front").await, place.bus("web").await);
    let (service, seen) = waiting();
    seen.go.add_permits(10);
    back.serve(BackApi(service)).await.unwrap();
    let (answers, _) = mpsc::channel(1);
    front.serve(FrontApi(Asking { bus: front.clone(), answers })).await.unwrap();
    let (heard, mut hears) = mpsc::channel(1);
    let bus = caller.clone();
    caller
        .listen("watch", move |event: Asked| {
            let (bus, heard) = (bus.clone(), heard.clone());
            async move {
                let number = BackClient::new(&bus).wait(event.number).await?;
                heard.send(number).await?;
                Ok(())
            }
        })
        .await
        .unwrap();
    soon("telling", FrontClient::new(&caller).tell(7).into_future()).await.unwrap();
    assert_eq!(soon("the listener", hears.recv()).await, Some(7));
}

async fn a_dropped_call_frees_its_place_at_once(place: Place) {
    let server = place.bus("back").await;
    let one = |config: &mut lightbus::config::Config| {
        config.bus.max_calls_in_flight = NonZeroU32::MIN;
    };
    let caller = place.bus_changed("web", one).await;
    let (service, mut seen) = waiting();
    server.serve(BackApi(service)).await.unwrap();
    let client = BackClient::new(&caller);
    for number in 0..3 {
        let call = client.wait(number).timeout(Duration::from_secs(600));
        let call = tokio::spawn(call.into_future());
        assert_eq!(soon("the call", seen.begun.recv()).await, Some(number));
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    seen.go.add_permits(4);
    assert_eq!(soon("the last", client.wait(9).into_future()).await.unwrap(), 9);
}

async fn a_call_that_finds_no_place_says_so_and_sends_nothing(place: Place) {
    let server = place.bus("back").await;
    let one = |config: &mut lightbus::config::Config| {
        config.bus.max_calls_in_flight = NonZeroU32::MIN;
    };
    let caller = place.bus_changed("web", one).await;
    let (service, mut seen) = waiting();
    server.serve(BackApi(service)).await.unwrap();
    let client = BackClient::new(&caller);
    let first = tokio::spawn(client.wait(1).timeout(Duration::from_secs(600)).into_future());
    assert_eq!(soon("the first", seen.begun.recv()).await, Some(1));
    let second = client.wait(2).timeout(Duration::from_millis(100));
    let error = soon("the second", second.into_future()).await.unwrap_err();
    assert_eq!((error.kind(), error.retryable()), (ErrorKind::Timeout, Retry::Safe));
    let text = error.to_string();
    assert!(text.contains("calling back.wait") && text.contains("max_calls_in_flight"), "{text}");
    seen.go.add_permits(1);
    assert_eq!(soon("the first", first).await.unwrap().unwrap(), 1);
    assert!(seen.begun.try_recv().is_err(), "the second was never sent");
}

async fn no_more_calls_run_at_once_than_configured(place: Place) {
    let two = |config: &mut lightbus::config::Config| {
        config.bus.max_calls_at_work = NonZeroU32::MIN.saturating_add(1);
    };
    let (server, caller) = (place.bus_changed("back", two).await, place.bus("web").await);
    let (service, mut seen) = waiting();
    server.serve(BackApi(service)).await.unwrap();
    let client = BackClient::new(&caller);
    let calls = (0..6).map(|number| {
        tokio::spawn(client.wait(number).timeout(Duration::from_secs(60)).into_future())
    });
    let calls: Vec<_> = calls.collect();
    for _ in 0..2 {
        soon("a call", seen.begun.recv()).await.unwrap();
    }
    for more in 0..4 {
        assert!(seen.begun.try_recv().is_err(), "{more}: more than two at once");
        seen.go.add_permits(1);
        soon("the next call", seen.begun.recv()).await.unwrap();
    }
    seen.go.add_permits(2);
    for call in calls {
        soon("an answer", call).await.unwrap().unwrap();
    }
}

async fn a_timeout_of_an_api_and_of_a_call(place: Place) {
    let server = place.bus("back").await;
    let (service, seen) = waiting();
    server.serve(BackApi(service)).await.unwrap();
    let caller = place.bus_with("web", "rpc_timeout: 0.2").await;
    let client = BackClient::new(&caller);
    let began = Instant::now();
    let error = soon("the API's timeout", client.wait(1).into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(began.elapsed() < Duration::from_secs(4), "not the 5 s that an API has by default");
    // A call may have more time than its API.
    let call = tokio::spawn(client.wait(2).timeout(Duration::from_secs(60)).into_future());
    let error = soon("a later call", client.wait(3).into_future()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert!(!call.is_finished(), "it waits longer than its API says");
    seen.go.add_permits(3);
    assert_eq!(soon("the call", call).await.unwrap().unwrap(), 2);
}

/// Two calls are taken at once; the first keeps the only thread busy until the second has expired.
async fn a_call_that_expired_behind_another_is_not_run(place: Place) {
    let (server, caller) = (place.bus("back").await, place.bus("web").await);
    let (service, seen) = waiting();
    server.serve(BackApi(service)).await.unwrap();
    let client = BackClient::new(&caller);
    // So that nothing is connected or read between the two.
    assert!(client.block(0).await.unwrap());
    let busy = client.block(600).timeout(Duration::from_secs(20));
    let late = client.block(1).timeout(Duration::from_millis(200));
    let (busy, late) = tokio::join!(busy, late);
    assert!(busy.unwrap());
    // On a broker even its sending may have waited for the thread.
    let kind = late.unwrap_err().kind();
    assert!(matches!(kind, ErrorKind::Timeout | ErrorKind::Unavailable), "{kind:?}");
    // The worker goes on, and what it had taken is settled.
    assert!(soon("the next", client.block(0).into_future()).await.unwrap());
    assert_eq!(seen.blocked.load(Ordering::SeqCst), 3, "the one that was late was not run");
    eventually("none is counted as at work", async || {
        server.health().parts.iter().all(|part| part.in_progress == 0)
    })
    .await;
}

#[tokio::test]
async fn a_call_that_expired_behind_another_is_not_run_in_memory() {
    a_call_that_expired_behind_another_is_not_run(Place::memory().unwrap()).await;
}

#[tokio::test]
async fn a_call_that_expired_behind_another_is_not_run_on_redis() {
    if let Some(place) = Place::redis() {
        a_call_that_expired_behind_another_is_not_run(place).await;
    }
}

#[lightbus::api(name = "chain")]
pub trait Chain {
    /// Calls itself until `links` are left, and returns how many there were.
    async fn link(&self, links: u32) -> Result<u32, String>;
}

struct Links {
    bus: Bus,
    most: Arc<AtomicUsize>,
    now: Arc<AtomicUsize>,
}

impl Chain for Links {
    async fn link(&self, links: u32) -> Result<u32, String> {
        if links == 0 {
            return Ok(0);
        }
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        let rest =
            ChainClient::new(&self.bus).link(links - 1).timeout(Duration::from_secs(50)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        rest.map(|rest| rest + 1).map_err(|error| error.to_string())
    }
}

/// 100 callers want 4 slots, and each procedure in a slot calls its own API twice over.
async fn procedures_call_their_own_process_with_all_slots_taken(place: Place) {
    let (server, caller) = (place.bus("chain").await, place.bus("web").await);
    let (most, now) = (Arc::default(), Arc::default());
    let links = Links { bus: server.clone(), most: Arc::clone(&most), now };
    server.serve(ChainApi(links)).concurrency(4).await.unwrap();
    let client = ChainClient::new(&caller);
    let calls = (0..100).map(|_| client.link(2).timeout(Duration::from_secs(50)).into_future());
    let all = soon("all calls", futures_util::future::join_all(calls)).await;
    assert!(all.iter().all(|links| matches!(links, Ok(2))), "{all:?}");
    assert!(most.load(Ordering::SeqCst) <= 8, "4 slots, of two links each");
    // Without an end there is an error, not a full stack.
    let endless = client.link(10_000).timeout(Duration::from_secs(50)).into_future();
    let error = soon("the endless chain", endless).await.unwrap_err();
    assert!(error.to_string().contains("wait for each other already"), "{error}");
    soon("closing", server.close()).await.unwrap();
    soon("closing", caller.close()).await.unwrap();
}
