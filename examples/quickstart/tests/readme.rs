//! The README's first command prints what the README says.
#![allow(clippy::unwrap_used, reason = "in a test a panic is how a failure is told")]

use std::process::Command;

#[test]
fn it_prints_what_the_readme_shows_and_ends_by_itself() {
    let readme = include_str!("../../../README.md");
    let after_command = readme.split("cargo run -p quickstart\n").nth(1).unwrap();
    let shown = after_command.split("```text\n").nth(1).unwrap().split("```").next().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stdout).unwrap(), shown);
}
