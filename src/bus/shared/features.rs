//! The kinds of work that a process does.

use std::{fmt, str::FromStr};

use lightbus_core::{Error, ErrorKind, Result};

/// The kinds of work that a process does. By default all.
///
/// With them, one program can be run as several processes: `LIGHTBUS_FEATURES=rpcs,events` answers calls
/// and handles events, another process with `LIGHTBUS_FEATURES=tasks` runs the tasks. Whatever is
/// disabled, the schemas of served APIs are published, and the process may call and fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Features {
    /// Answering calls of the served APIs.
    pub rpcs: bool,
    /// Handling events. If disabled, the broker is not told of the process's listeners.
    pub events: bool,
    /// Scheduled and background tasks.
    pub tasks: bool,
}

impl Features {
    /// The environment variable with the names of the enabled features, separated by commas.
    pub(crate) const VARIABLE: &str = "LIGHTBUS_FEATURES";
    const NAMES: [&str; 3] = ["rpcs", "events", "tasks"];

    /// Returns no features.
    #[must_use]
    pub const fn none() -> Self {
        Self { rpcs: false, events: false, tasks: false }
    }

    /// Enables or disables answering calls.
    #[must_use]
    pub const fn with_rpcs(mut self, enabled: bool) -> Self {
        self.rpcs = enabled;
        self
    }

    /// Enables or disables handling events.
    #[must_use]
    pub const fn with_events(mut self, enabled: bool) -> Self {
        self.events = enabled;
        self
    }

    /// Enables or disables tasks.
    #[must_use]
    pub const fn with_tasks(mut self, enabled: bool) -> Self {
        self.tasks = enabled;
        self
    }

    /// Reads the environment variable. Without it, all features are enabled.
    pub(crate) fn from_env() -> Result<Self> {
        match std::env::var(Self::VARIABLE) {
            Ok(names) => {
                names.parse().map_err(|error: Error| error.during("reading LIGHTBUS_FEATURES"))
            }
            Err(_) => Ok(Self::default()),
        }
    }

    fn switch(&mut self, name: &str) -> Result<&mut bool> {
        match name {
            "rpcs" => Ok(&mut self.rpcs),
            "events" => Ok(&mut self.events),
            "tasks" => Ok(&mut self.tasks),
            _ => Err(Error::new(ErrorKind::Config, format!("there is no feature `{name}`"))
                .with("known", Self::NAMES.join(", "))
                .did_you_mean(name, Self::NAMES)),
        }
    }
}

impl Default for Features {
    fn default() -> Self {
        Self { rpcs: true, events: true, tasks: true }
    }
}

/// Parses names separated by commas, as in `LIGHTBUS_FEATURES`. Features that are not named are
/// disabled.
///
/// ```
/// # use lightbus::Features;
/// let features: Features = "rpcs, events".parse().unwrap();
/// assert!(features.rpcs && features.events && !features.tasks);
/// assert!("rpc".parse::<Features>().is_err());
/// ```
impl FromStr for Features {
    type Err = Error;

    fn from_str(names: &str) -> Result<Self> {
        let mut features = Self::none();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            *features.switch(name)? = true;
        }
        Ok(features)
    }
}

/// Writes the names of the enabled features, separated by commas.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = [self.rpcs, self.events, self.tasks];
        let names = Self::NAMES.into_iter().zip(on).filter(|(_, on)| *on).map(|(name, _)| name);
        let names: Vec<_> = names.collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}
