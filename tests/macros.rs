//! What the macros accept, and the words with which they refuse the rest.
//!
//! The words are in `tests/macros/fail/*.stderr`; after a change of them, look at what
//! `TRYBUILD=overwrite cargo test --test macros` makes of it.
#![cfg(all(feature = "macros", feature = "memory"))]

#[test]
fn the_macros_accept_and_refuse() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/macros/pass/*.rs");
    cases.compile_fail("tests/macros/fail/*.rs");
}
