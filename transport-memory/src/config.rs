//! The options of the memory transport.

use serde::Deserialize;

/// Limits. All four kinds of transport accept both.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// Events that are kept per API: 100,000. Older ones go, read or not.
    pub max_stream_length: usize,
    /// Calls that wait per API: 10,000. A further one is refused.
    pub max_queue_length: usize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { max_stream_length: 100_000, max_queue_length: 10_000 }
    }
}
