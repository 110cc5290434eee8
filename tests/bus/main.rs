//! What a bus does, on every transport: a module for each subject.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]
#![allow(missing_docs, unreachable_pub, reason = "contracts of tests")]

mod boundless;
mod calling;
mod config;
mod guarantees;
mod layers;
mod limits;
mod listening;
mod log;
mod plugins;
mod schema_compare;
mod schema_files;
mod services;
mod supervision;
mod testing_kit;
