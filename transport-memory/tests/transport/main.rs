//! The transport in memory: the suite of every transport, and transports that are wrong on purpose.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]

mod conformance;
mod memory;
mod wrong_transports;
