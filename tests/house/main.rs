//! The rules of the repository, and what its documentation shows.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]
#![allow(missing_docs, unreachable_pub, reason = "contracts of tests")]

mod architecture;
mod documentation;
mod members;
mod sources;
