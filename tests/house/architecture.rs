//! "What must never be known" of ARCHITECTURE.md, rule by rule.

use std::path::Path;

use lightbus_tests::root;

use super::sources::{Source, member_named, sources, transports};

const CLIENTS: [&str; 4] = ["redis", "lapin", "rdkafka", "fred"];

/// Fails with each line of code for which `is_wrong` holds.
fn refuse(what: &str, sources: &[Source], is_wrong: impl Fn(&str, &str) -> bool) {
    assert!(!sources.is_empty(), "{what}: no sources");
    let wrong: Vec<_> = sources
        .iter()
        .flat_map(|source| source.code().map(move |(number, line)| (source, number, line)))
        .filter(|(source, _, line)| is_wrong(&source.path, line))
        .map(|(source, number, line)| format!("{}:{number}: {}", source.path, line.trim()))
        .collect();
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

#[test]
fn the_core_knows_no_broker_no_file_format_and_no_bus() {
    let core = member_named("lightbus-core");
    for foreign in CLIENTS.into_iter().chain(["lightbus", "serde-saphyr", "toml", "serde_yaml"]) {
        assert!(!core.dependencies.contains(foreign), "lightbus-core depends on {foreign}");
    }
    let words = ["redis::", "lapin::", "rdkafka::", "struct Bus {", "struct Bus("];
    refuse("lightbus-core knows", &core.sources(), |_, line| {
        words.iter().any(|word| line.contains(word))
    });
}

#[test]
fn a_transport_knows_only_the_core_and_its_client() {
    assert!(transports().count() >= 4);
    for transport in transports() {
        let own = transport.dependencies.iter();
        for other in own.filter(|dependency| dependency.starts_with("lightbus")) {
            assert_eq!(other, "lightbus-core", "{} depends on {other}", transport.name);
        }
    }
}

/// What names a transport: the registry; and what takes the place of a transport that a configuration
/// leaves out, which is Redis, as in Python.
const MAY_NAME_TRANSPORTS: [&str; 2] = ["src/lib.rs", "src/config/mod.rs"];
/// Passes the suite of a transport, in memory.
const TESTS_OF_LAYERS: &str = "src/testing/conformance.rs";

#[test]
fn nothing_names_a_transport_but_the_registry_and_its_fallback() {
    let names: Vec<_> = transports()
        .map(|member| member.name.trim_start_matches("lightbus-transport-"))
        .flat_map(|name| [format!("\"{name}\""), format!("lightbus_transport_{name}")])
        .collect();
    let mut found = sources(Path::new("src"));
    found.retain(|source| {
        !MAY_NAME_TRANSPORTS.contains(&&*source.path) && source.path != TESTS_OF_LAYERS
    });
    refuse("a transport is named", &found, |_, line| names.iter().any(|name| line.contains(name)));
}

/// What is spawned, file by file: the handlers' side, and beside it what clients of brokers need.
const SPAWN: [(&str, &str); 18] = [
    ("lightbus-core/src/subscription/merge.rs", "the fetches of merged sources"),
    ("lightbus-core/src/broker/", "what receives results over a simple broker"),
    ("examples/custom_transport/src/", "a client of its own, and the hub that it talks to"),
    ("lightbus-core/src/subscription/mod.rs", "the driver of a subscription"),
    ("src/bus/", "what runs handlers, tasks and consumers"),
    ("src/blocking.rs", "the runtime of code without async"),
    ("transport-redis/src/batcher.rs", "commands of many callers, sent together"),
    ("lightbus-core/src/upkeep.rs", "what a transport does beside its messages"),
    ("transport-redis/src/rpc/prune.rs", "the removal of expired calls"),
    ("transport-redis/src/result/receive.rs", "results"),
    ("transport-amqp/src/publisher.rs", "confirms of what was published"),
    ("transport-amqp/src/link.rs", "connections"),
    ("transport-amqp/src/result/receive.rs", "results"),
    ("transport-kafka/src/client.rs", "calls of librdkafka that block"),
    ("transport-kafka/src/group/mod.rs", "the thread that polls librdkafka for a group"),
    ("transport-kafka/src/group/committer.rs", "the thread that commits for a group"),
    ("transport-kafka/src/result/receive.rs", "results"),
    ("transport-kafka/src/rpc/source.rs", "consumers of further topics"),
];

#[test]
fn the_driver_and_the_bus_run_handlers_and_transports_spawn_what_their_clients_need() {
    let spawns = |line: &str| {
        ["tokio::spawn(", ".spawn(", "spawn_blocking(", "thread::spawn("]
            .iter()
            .any(|call| line.contains(call))
    };
    let mut found = sources(Path::new("src"));
    found.extend(member_named("lightbus-core").sources());
    found.extend(transports().flat_map(super::sources::Member::sources));
    // The kit for tests is not what a service runs.
    found.retain(|source| {
        !source.path.contains("/conformance") && !source.path.starts_with("src/testing/")
    });
    refuse("spawned in a file that is not listed here", &found, |path, line| {
        spawns(line) && !SPAWN.iter().any(|(allowed, _)| path.starts_with(allowed))
    });
    for (allowed, what) in SPAWN {
        let mut listed = found.iter().filter(|source| source.path.starts_with(allowed));
        let does = listed.any(|source| source.code().any(|(_, line)| spawns(line)));
        assert!(does, "nothing is spawned in {allowed} ({what}): take it off the list");
    }
}

#[test]
fn nothing_that_a_broker_sends_can_panic() {
    let mut found = member_named("lightbus-core").sources();
    found.extend(transports().flat_map(super::sources::Member::sources));
    found.retain(|source| !source.path.contains("/conformance"));
    let panics = [".unwrap()", ".expect(", "panic!(", "unreachable!(", " assert!(", "assert_eq!("];
    refuse("can panic", &found, |_, line| panics.iter().any(|call| line.contains(call)));
}

#[test]
fn no_lock_is_held_over_an_await() {
    let manifest = super::sources::members().iter().find(|member| member.folder == Path::new(""));
    let lints = manifest.unwrap().manifest();
    assert!(lints.contains("await_holding_lock = \"deny\""), "clippy is not asked to refuse it");
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
    let brokers: Vec<_> = transports()
        .filter(|member| CLIENTS.into_iter().any(|client| member.dependencies.contains(client)))
        .collect();
    assert!(brokers.len() >= 3, "{}", brokers.len());
    for broker in &brokers {
        for file in skeleton {
            let path = broker.folder.join(format!("src/{file}.rs"));
            assert!(root().join(&path).is_file(), "there is no {}", path.display());
        }
    }
}
