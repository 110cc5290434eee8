#![doc = include_str!("../README.md")]

mod broker;
mod client;
pub mod loft;
mod protocol;

use lightbus_core::{
    broker::Factory,
    config_types::{Seconds, Secret},
};
use schemars::JsonSchema;
use serde::Deserialize;

pub use broker::Pigeon;

/// Makes transports by the name `pigeon`: for [`Registry::with`](lightbus_core::Registry::with).
pub type PigeonFactory = Factory<Pigeon>;

/// The options below `pigeon` in the configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PigeonConfig {
    /// Where the loft listens.
    pub loft: String,
    /// What the loft wants to hear first, if anything.
    pub password: Option<Secret>,
    /// How long connecting may take.
    pub connection_timeout: Seconds,
    /// After how long a process that has died loses the events that it held.
    pub acknowledgement_timeout: Seconds,
}

impl Default for PigeonConfig {
    fn default() -> Self {
        Self {
            loft: "127.0.0.1:7411".into(),
            password: None,
            connection_timeout: Seconds::new(2),
            acknowledgement_timeout: Seconds::new(30),
        }
    }
}
