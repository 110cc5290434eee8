//! The bus for code without async, from wherever it is called.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc,
    time::Duration,
};

use lightbus::{ErrorKind, OnError, RetryPolicy, args, blocking};
use lightbus_tests::{LIMIT, Place};

#[lightbus::api(name = "auth", events(UserRegistered))]
pub trait Auth {
    async fn check_password(&self, username: String, password: String) -> bool;
}

#[derive(Clone, Debug, PartialEq, lightbus::Event)]
pub struct UserRegistered {
    pub username: String,
}

struct Service;

impl Auth for Service {
    async fn check_password(&self, username: String, password: String) -> bool {
        username == "admin" && password == "secret"
    }
}

/// Serves, listens, calls and fires, and waits for the event.
fn use_it(place: &Place) {
    let bus = blocking::Bus::connect(place.builder("auth", "", |_| ())).unwrap();
    bus.serve(AuthApi(Service)).unwrap();
    let (heard, names) = mpsc::channel();
    let caller = bus.clone();
    bus.listen("welcome", move |event: UserRegistered| {
        // A handler may call, and may block.
        let right = args! { username: "admin", password: "secret" };
        let known: bool = caller.call("auth.check_password", right)?;
        heard.send((event.username, known))?;
        Ok(())
    })
    .unwrap();
    let auth = AuthClient::new(bus.as_async());
    assert!(bus.wait(auth.check_password("admin", "secret")).unwrap());
    let wrong = args! { username: "admin", password: "?" };
    assert!(!bus.call::<bool>("auth.check_password", wrong).unwrap());
    bus.fire(UserRegistered { username: "sally".into() }).unwrap();
    bus.fire_event("auth.user_registered", args! { username: "harry" }).unwrap();
    for name in ["sally", "harry"] {
        assert_eq!(names.recv_timeout(LIMIT).unwrap(), (name.to_owned(), true));
    }
    assert!(bus.health().healthy);
    let error = bus.call::<bool>("auth.chek_password", args! {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    bus.close().unwrap();
    assert_eq!(
        bus.call::<bool>("auth.check_password", args! {}).unwrap_err().kind(),
        ErrorKind::Closed
    );
}

fn places() -> impl Iterator<Item = Place> {
    [Place::memory(), Place::redis()].into_iter().flatten()
}

#[test]
fn from_a_plain_thread() {
    for place in places() {
        use_it(&place);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn within_a_runtime_with_threads() {
    for place in places() {
        use_it(&place);
    }
}

#[tokio::test]
async fn within_a_runtime_of_one_thread() {
    for place in places() {
        use_it(&place);
    }
}

#[tokio::test]
async fn on_a_thread_for_blocking() {
    tokio::task::spawn_blocking(|| places().for_each(|place| use_it(&place))).await.unwrap();
}

#[test]
fn many_threads_share_one_place() {
    for place in places() {
        let bus = blocking::Bus::connect(place.builder("auth", "", |_| ())).unwrap();
        bus.serve(AuthApi(Service)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let right = args! { username: "admin", password: "secret" };
                        assert!(bus.call::<bool>("auth.check_password", right).unwrap());
                    }
                });
            }
        });
        bus.close().unwrap();
    }
}

#[test]
fn it_runs_until_it_is_told_to_stop() {
    let bus = blocking::Bus::in_memory().unwrap();
    let (sender, started) = mpsc::channel();
    bus.as_async().on_start(move |_| async move {
        sender.send(())?;
        Ok(())
    });
    let running = {
        let bus = bus.clone();
        std::thread::spawn(move || bus.run())
    };
    started.recv_timeout(LIMIT).unwrap();
    bus.shut_down();
    running.join().unwrap().unwrap();
}

#[test]
fn a_panic_arrives_where_it_is_waited_for_and_one_in_a_handler_is_a_failure() {
    let bus = blocking::Bus::in_memory().unwrap();
    let panic =
        catch_unwind(AssertUnwindSafe(|| bus.wait(async { panic!("as asked") }))).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as asked"));

    bus.register(AuthClient::contract()).unwrap();
    let (heard, tries) = mpsc::channel();
    let fails = blocking::handler(move |_: UserRegistered| {
        heard.send(()).unwrap();
        panic!("once more")
    });
    let wait = Duration::from_millis(1);
    let policy = RetryPolicy::attempts(3).backoff(wait, wait);
    bus.wait(bus.as_async().listen("fails", fails).on_error(OnError::Retry(policy))).unwrap();
    bus.fire(UserRegistered { username: "sally".into() }).unwrap();
    for _ in 0..3 {
        tries.recv_timeout(LIMIT).unwrap();
    }
    bus.close().unwrap();
}

#[tokio::test]
async fn it_may_be_dropped_anywhere() {
    drop(blocking::Bus::in_memory().unwrap());
}
