//! The transport on a real RabbitMQ: the suite of every transport, and what is special to RabbitMQ.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]

mod conformance;
mod deleted;
mod events;
mod faults;
mod inspect;
mod rpc;
mod sizes;
mod starts;
mod support;
mod tls;
