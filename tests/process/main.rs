//! The life of a process: how it runs, what it does by the clock, how it ends. Most of it in child
//! processes, to which signals are sent.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]
#![allow(missing_docs, unreachable_pub, reason = "contracts of tests")]

mod blocking;
mod crashes;
mod ending;
mod hangs;
mod life;
mod running;
mod tasks;
mod tutorial;
