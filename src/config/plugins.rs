//! Settings of plugins.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::model::{in_seconds, seconds, seconds_schema};

/// The plugins, by name: those of Python's Lightbus.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct PluginsConfig {
    /// Publishes that workers start, live and stop: events of `internal.state`.
    pub internal_state: StatePluginConfig,
    /// Publishes what is called, fired and handled: events of `internal.metrics`.
    pub internal_metrics: MetricsPluginConfig,
}

/// Settings of the plugin `internal_state`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "StatePlugin")]
#[non_exhaustive]
pub struct StatePluginConfig {
    /// Whether it is enabled: false.
    pub enabled: bool,
    /// Whether it publishes periodically that a worker lives: true.
    pub ping_enabled: bool,
    /// How often, in seconds: 60.
    #[serde(deserialize_with = "seconds", serialize_with = "in_seconds")]
    #[schemars(schema_with = "seconds_schema")]
    pub ping_interval: Duration,
}

impl Default for StatePluginConfig {
    fn default() -> Self {
        Self { enabled: false, ping_enabled: true, ping_interval: Duration::from_secs(60) }
    }
}

/// Settings of the plugin `internal_metrics`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "MetricsPlugin")]
#[non_exhaustive]
pub struct MetricsPluginConfig {
    /// Whether it is enabled: false.
    pub enabled: bool,
}
