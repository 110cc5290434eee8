//! Listening: order by key, batches, failures, and what is listened to, on every transport by the
//! same source.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]
#![allow(missing_docs, unreachable_pub, reason = "contracts of tests")]

mod support;

#[path = "listening/batches.rs"]
mod batches;
#[path = "listening/contracts.rs"]
mod contracts;
#[path = "listening/dead_letters.rs"]
mod dead_letters;
#[path = "listening/failures.rs"]
mod failures;
#[path = "listening/order.rs"]
mod order;
#[path = "listening/selection.rs"]
mod selection;
