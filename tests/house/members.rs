//! What all members of the workspace have in common.

use super::sources::{all_sources, members};

#[test]
fn every_member_takes_lints_version_and_licence_from_the_workspace() {
    for member in members() {
        let manifest = member.manifest();
        for line in
            ["[lints]\nworkspace = true", "version.workspace = true", "license.workspace = true"]
        {
            assert!(manifest.contains(line), "{} lacks `{line}`", member.name);
        }
    }
}

#[test]
fn only_what_users_need_is_published() {
    let published: Vec<_> =
        members().iter().filter(|member| member.is_published).map(|member| &*member.name).collect();
    for name in &published {
        let is_for_users = ["lightbus", "lightbus-core", "lightbus-macros", "lightbus-cli"];
        assert!(
            is_for_users.contains(name) || name.starts_with("lightbus-transport-"),
            "{name} lacks `publish = false`"
        );
    }
    assert!(published.len() >= 8, "{published:?}");
}

#[test]
fn every_source_file_says_what_it_is() {
    for source in all_sources() {
        let first = source.text.lines().next().unwrap_or_default();
        // What must not compile is one thing after the other.
        let said = first.starts_with("//!")
            || first.starts_with("#![doc")
            || source.path.contains("/macros/fail/");
        assert!(said, "{} does not begin with what it is for", source.path);
    }
}

#[test]
fn no_unfinished_or_debugging_code_is_left() {
    // Put together here, so that this file does not find itself.
    let marks = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!("));
    for source in all_sources() {
        for mark in &marks {
            assert!(!source.text.contains(mark.as_str()), "{} has {mark}", source.path);
        }
    }
}
