//! The origin of a value.

use std::fmt;

/// The origin of a value of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Not set: the default.
    Default,
    /// Set by the program.
    Program,
    /// Set in a file, or at an address (shown without user and password).
    File(String),
    /// Set by an environment variable.
    Environment(String),
}

impl Origin {
    /// Returns the fact that an error names, if the value was set somewhere.
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
