//! The transport on a real Redis: the suite of every transport, and what is special to Redis.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]

mod basic;
mod conformance;
mod events;
mod expired;
mod installations;
mod leaving;
mod logs;
mod losses;
mod reclaim;
mod refusals;
mod rpc;
mod support;
