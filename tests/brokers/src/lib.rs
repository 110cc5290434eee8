//! Brokers for tests: those that the environment names, and those that a test starts for itself, to
//! stop and kill them. Also what tests of different transports share.
//!
//! `scripts/brokers` starts the shared ones, for people and CI, and exports where they are. A test that
//! finds neither a shared broker nor a program to start says so loudly and passes; where `CI` is `true`
//! it fails.
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "in a test a panic is how a failure is told"
)]

mod folder;
mod kafka;
mod messages;
mod ports;
mod proxy;
mod rabbitmq;
mod redis;
mod wait;

use std::env;

pub use kafka::KafkaServer;
pub use messages::{call, fields, with};
pub use ports::free_port;
pub use proxy::{Fault, Proxy};
pub use rabbitmq::RabbitServer;
pub use redis::RedisServer;
pub use wait::{LIMIT, Patience, eventually, soon, unique};

/// What a variable of the environment names. If it is not set, the test is skipped: `command` would
/// set it.
#[must_use]
pub fn named(variable: &str, command: &str) -> Option<String> {
    let value = env::var(variable).ok();
    if value.is_none() {
        skipped(&format!("{variable} is not set: `eval \"$({command})\"` sets it"));
    }
    value
}

/// The RabbitMQ that `scripts/brokers` has started, as a URL.
#[must_use]
pub fn shared_rabbitmq() -> Option<String> {
    named("LIGHTBUS_TEST_AMQP_URL", "scripts/brokers up --amqp")
}

/// The Kafka that `scripts/brokers` has started, as a list of brokers.
#[must_use]
pub fn shared_kafka() -> Option<String> {
    named("LIGHTBUS_TEST_KAFKA_BROKERS", "scripts/brokers up --kafka")
}

/// Says why a test cannot run here.
///
/// # Panics
///
/// Where `CI` is `true`: there nothing may be skipped.
pub fn skipped(why: &str) {
    eprintln!("\n*** SKIPPED: {why} ***\n");
    assert!(env::var("CI").as_deref() != Ok("true"), "with CI=true nothing may be skipped: {why}");
}
