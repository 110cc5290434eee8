//! The transport on a real Kafka: the suite of every transport, and what is special to Kafka.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]

mod conformance;
mod faults;
mod rebalance;
mod security;
mod share;
mod sizes;
mod support;
