//! The options, as they stand in a configuration.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::Deserialize;

/// The options. Each kind of transport accepts all of them, so that one section can serve for four,
/// and heeds those that are about it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MemoryConfig {
    /// How many calls of one API may wait for a worker: 10,000. More are refused.
    pub max_queue_length: NonZeroUsize,
    /// How many events of one API are kept, for listeners that are behind and for the history:
    /// 100,000. The oldest go first, read or not.
    pub max_stream_length: NonZeroUsize,
    /// How many dead letters of one listener are kept: 1,000. The oldest go first.
    pub max_dead_letters: NonZeroUsize,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        let at_most = |limit| NonZeroUsize::new(limit).unwrap_or(NonZeroUsize::MIN);
        Self {
            max_queue_length: at_most(10_000),
            max_stream_length: at_most(100_000),
            max_dead_letters: at_most(1_000),
        }
    }
}
