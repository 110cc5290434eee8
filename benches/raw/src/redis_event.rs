//! Events over Redis streams.

use redis::{Cmd, cmd};

pub(crate) mod consume;
pub(crate) mod fire;
pub(crate) mod latency;

/// The name of the stream.
const STREAM: &str = "stream";

/// The group that reads.
const GROUP: &str = "bench-listener";

/// The consumer in the group.
const CONSUMER: &str = "bench-1";

/// About how many entries a stream keeps.
const MAX_LENGTH: u64 = 100_000;

/// Firing an event: the fields that the protocol asks for and one argument.
fn xadd(stream: &str, argument: &str, value: &[u8]) -> Cmd {
    let mut add = Cmd::with_capacity(16, 256 + value.len());
    add.arg("XADD").arg(stream).arg("MAXLEN").arg("~").arg(MAX_LENGTH).arg("*");
    add.arg("id").arg("85dc1c64-e701-11f1-ac4c-02fc00000001");
    add.arg("api_name")
        .arg("bench.shop")
        .arg("event_name")
        .arg("price_changed")
        .arg("version")
        .arg(1);
    add.arg(argument).arg(value);
    add
}

/// Reading up to so many new events in the group.
fn xreadgroup(stream: &str, count: usize) -> Cmd {
    const BLOCK_MILLIS: u64 = 1000;
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(GROUP)
        .arg(CONSUMER)
        .arg("COUNT")
        .arg(count)
        .arg("BLOCK")
        .arg(BLOCK_MILLIS);
    read.arg("STREAMS").arg(stream).arg(">");
    read
}
