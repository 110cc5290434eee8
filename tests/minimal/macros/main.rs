//! What the macros accept, and the words with which they refuse the rest.
//!
//! The words are in `macros/fail/*.stderr`; after a change of them, look at what
//! `TRYBUILD=overwrite cargo test -p lightbus-minimal-tests --test macros` makes of it. What they refuse
//! is compiled by itself, with what this package depends on: nothing of it needs a transport but memory.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]

pub mod accepted;

#[test]
fn what_is_refused_is_told_in_these_words() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("macros/fail/*.rs");
}
