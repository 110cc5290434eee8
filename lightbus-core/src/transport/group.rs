//! Consumer groups by name.

use std::fmt;

use crate::Name;

/// A consumer group: all processes that listen under the same service and listener name. They share
/// the events.
///
/// Its name, also shown by `Display`, is `{service}-{listener}`, as Python's Lightbus names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupSpec {
    /// The service that listens.
    pub service: Name,
    /// The listener's name within its service.
    pub listener: Name,
}

impl GroupSpec {
    /// The group of a listener of a service.
    #[must_use]
    pub fn new(service: impl Into<Name>, listener: impl Into<Name>) -> Self {
        Self { service: service.into(), listener: listener.into() }
    }

    /// Returns the name of the group: `{service}-{listener}`.
    #[must_use]
    pub fn name(&self) -> Name {
        self.to_string().into()
    }
}

impl fmt::Display for GroupSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.service, self.listener)
    }
}
