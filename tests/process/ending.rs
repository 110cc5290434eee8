//! How a process ends that does not let itself be ended easily: in hooks that hang, in a handler that
//! outlives the drain timeout. Each in a process of its own, ended by signals as an operator does it.
#![cfg(unix)]

use std::{future::pending, time::Duration};

use lightbus::{config::Config, prelude::*};
use lightbus_tests::Program;

#[lightbus::api(name = "sloth")]
pub trait Sloth {
    /// Never answers.
    async fn hang(&self);
}

struct Service;

impl Sloth for Service {
    async fn hang(&self) {
        println!("handler hangs");
        pending().await
    }
}

/// Not a test by itself: the process that is ended.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_hangs() {
    let Ok(place) = std::env::var("LIGHTBUS_TEST_CHILD") else { return };
    let hangs = move |here: &str| place == here;
    // Long enough to never pass by itself where a second signal is to come first.
    let drain = Duration::from_millis(if hangs("handler") { 100 } else { 600_000 });
    let builder = Bus::builder().config(Config::default()).drain_timeout(drain);
    let bus = builder.connect().await.unwrap();
    bus.serve(SlothApi(Service)).await.unwrap();
    if hangs("on_start") {
        bus.on_start(|_| async {
            println!("on_start hangs");
            pending().await
        });
    }
    bus.on_start(|_| async {
        println!("all started");
        Ok(())
    });
    let stop_hangs = hangs("on_stop");
    bus.on_stop(move |_| async move {
        println!("on_stop");
        if stop_hangs { pending().await } else { Ok(()) }
    });
    if hangs("handler") {
        let caller = |bus: Bus| async move { Ok(SlothClient::new(&bus).hang().await?) };
        bus.background("caller", caller).await.unwrap();
    }
    match bus.run().await {
        Ok(()) => println!("ended well"),
        Err(error) => println!("ended by {:?}: {error}", error.kind()),
    }
}

fn child(hangs: &str) -> Program {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "ending::child_that_hangs", "--nocapture"])
        .env("LIGHTBUS_TEST_CHILD", hangs);
    child.env_remove("LIGHTBUS_CONFIG").env_remove("LIGHTBUS_FEATURES");
    Program::start(&mut child)
}

#[test]
fn a_signal_ends_a_start_that_hangs() {
    let mut child = child("on_start");
    child.wait_for("on_start hangs");
    child.signal("TERM");
    child.wait_for("ended well");
    let (code, printed) = child.finish();
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains("on_stop"), "what was prepared is not cleaned up: {printed}");
    assert!(!printed.contains("all started"), "a hook after the one that hangs ran: {printed}");
}

#[test]
fn what_outlives_the_drain_timeout_is_cut_off_and_told() {
    let mut child = child("handler");
    child.wait_for("handler hangs");
    child.signal("TERM");
    let told = child.wait_for("ended by");
    for part in ["Timeout", "still running and was cut off", "100ms", "drain_timeout"] {
        assert!(told.contains(part), "no {part:?} in: {told}");
    }
    let (_, printed) = child.finish();
    assert!(printed.contains("on_stop"), "the hooks were left out: {printed}");
}

#[test]
fn a_second_signal_ends_an_end_that_hangs() {
    let mut child = child("on_stop");
    child.wait_for("all started");
    child.signal("INT");
    child.wait_for("on_stop");
    child.signal("TERM");
    let (code, printed) = child.finish();
    assert_eq!(code, Some(143), "{printed}");
    assert!(printed.contains("second signal: exiting at once"), "{printed}");
    assert!(!printed.contains("ended well"), "{printed}");
}
