//! The rules of ARCHITECTURE.md, held by tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
};

use lightbus_tests::root;
use serde_json::Value;

const CLIENTS: [&str; 4] = ["redis", "lapin", "rdkafka", "fred"];

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// The packages of the workspace, each with what it depends on when it is used.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|package| {
            let uses = package["dependencies"].as_array().unwrap().iter();
            let uses = uses.filter(|dependency| dependency["kind"] != "dev");
            let uses = uses.map(|dependency| dependency["name"].as_str().unwrap().to_owned());
            (package["name"].as_str().unwrap().to_owned(), uses.collect())
        })
        .collect()
}

#[test]
fn the_core_knows_no_broker_no_file_format_and_no_bus() {
    let all = dependencies();
    for foreign in CLIENTS.into_iter().chain(["lightbus", "serde-saphyr", "toml", "serde_yaml"]) {
        assert!(!all["lightbus-core"].contains(foreign), "lightbus-core depends on {foreign}");
    }
    for (path, text) in sources("lightbus-core/src") {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            for word in ["redis::", "lapin::", "rdkafka::", "struct Bus {", "struct Bus("] {
                assert!(!line.contains(word), "{} has {word}", path.display());
            }
        }
    }
}

#[test]
fn a_transport_knows_only_the_core_and_its_client() {
    let all = dependencies();
    let transports: Vec<_> =
        all.keys().filter(|name| name.starts_with("lightbus-transport-")).collect();
    assert!(transports.len() >= 2, "{transports:?}");
    for name in &transports {
        for other in all[*name].iter().filter(|dependency| dependency.starts_with("lightbus")) {
            assert_eq!(other, "lightbus-core", "{name} depends on {other}");
        }
    }
}

#[test]
fn the_bus_never_asks_which_transport_it_has() {
    let may_know = ["src/lib.rs"];
    for (path, text) in sources("src") {
        let relative = path.strip_prefix(root()).unwrap().to_str().unwrap();
        if may_know.contains(&relative) {
            continue;
        }
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for line in code {
            assert!(!line.contains("lightbus_transport_"), "{relative}: {line}");
            for question in [
                ".name() == \"redis\"",
                ".name() == \"memory\"",
                ".name() == \"amqp\"",
                ".name() == \"kafka\"",
            ] {
                assert!(!line.contains(question), "{relative}: {line}");
            }
        }
    }
}

#[test]
fn every_member_takes_lints_version_and_licence_from_the_workspace() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    for member in members.split('"').skip(1).step_by(2) {
        let text = std::fs::read_to_string(root().join(member).join("Cargo.toml")).unwrap();
        for line in
            ["[lints]\nworkspace = true", "version.workspace = true", "license.workspace = true"]
        {
            assert!(text.contains(line), "{member}/Cargo.toml lacks `{line}`");
        }
    }
}

#[test]
fn every_source_file_says_what_it_is() {
    for folder in [
        "src",
        "lightbus-core/src",
        "lightbus-macros/src",
        "transport-memory/src",
        "transport-redis/src",
        "examples",
    ] {
        for (path, text) in sources(folder) {
            let first = text.lines().next().unwrap_or_default();
            let said = first.starts_with("//!") || first.starts_with("#![doc");
            assert!(said, "{} does not begin with what it is for", path.display());
        }
    }
}

#[test]
fn nothing_in_the_tree_needs_the_machine_it_was_written_on() {
    // Put together here, so that this file does not find itself.
    let marks = ["todo", "unimplemented", "dbg"].map(|word| format!("{word}!("));
    for folder in [
        "src",
        "lightbus-core/src",
        "lightbus-macros/src",
        "transport-memory/src",
        "transport-redis/src",
        "tests",
        "examples",
    ] {
        for (path, text) in sources(folder) {
            for mark in &marks {
                assert!(!text.contains(mark.as_str()), "{} has {mark}", path.display());
            }
        }
    }
}

#[test]
fn every_broker_has_the_same_files() {
    let skeleton = [
        "lib",
        "client",
        "config",
        "endpoint",
        "error",
        "factory",
        "locate",
        "diagnose",
        "rpc/mod",
        "rpc/send",
        "rpc/source",
        "rpc/codec",
        "result/mod",
        "result/send",
        "result/receive",
        "result/codec",
        "event/mod",
        "event/send",
        "event/source",
        "event/codec",
        "event/group",
        "event/lag",
        "event/history",
        "event/dead_letters/mod",
        "event/dead_letters/codec",
        "event/dead_letters/requeue",
        "schema/mod",
        "schema/store",
    ];
    let brokers: Vec<_> = dependencies()
        .into_iter()
        .filter(|(name, _)| name.starts_with("lightbus-transport-"))
        .filter(|(_, uses)| CLIENTS.into_iter().any(|client| uses.contains(client)))
        .map(|(name, _)| name.replace("lightbus-", ""))
        .collect();
    assert!(brokers.len() >= 3, "{brokers:?}");
    for broker in &brokers {
        for file in skeleton {
            let path = format!("{broker}/src/{file}.rs");
            assert!(root().join(&path).is_file(), "there is no {path}");
        }
    }
}
