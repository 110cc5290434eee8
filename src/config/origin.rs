//! Where a value came from.

use std::fmt;

/// Where a value of the configuration came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// The program gave it.
    Program,
    /// It stands in this file, or at this address (shown without user and password).
    File(String),
    /// This environment variable holds it.
    Environment(String),
}

impl Origin {
    /// What an error says it is, where there is something to look at.
    pub(crate) fn fact(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::File(name) => Some(("file", name)),
            Self::Environment(name) => Some(("variable", name)),
            Self::Default | Self::Program => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Program => f.write_str("the program"),
            Self::File(name) | Self::Environment(name) => f.write_str(name),
        }
    }
}
