//! The testing kit, as authors of services use it. With `LIGHTBUS_TEST_CONFIG=examples/redis.yaml`
//! the same tests run on a broker.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]
#![allow(missing_docs, unreachable_pub, reason = "contracts of tests")]

#[path = "testing_kit/asserting.rs"]
mod asserting;
#[path = "testing_kit/broker.rs"]
mod broker;
#[path = "testing_kit/contracts.rs"]
mod contracts;
#[path = "testing_kit/faults.rs"]
mod faults;
#[path = "testing_kit/guide.rs"]
mod guide;
#[path = "testing_kit/mocking.rs"]
mod mocking;
#[path = "testing_kit/settling.rs"]
mod settling;
mod support;
