//! Consumer groups by name.

use std::fmt;

use crate::{Error, ErrorKind, Name};

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

    /// The error that refuses this group because another one, of another service and listener, has the
    /// same joined name: `mail-order` with `confirm`, and `mail` with `order-confirm`. The broker knows
    /// them as one group, so each would receive only a part of the events.
    #[must_use]
    pub fn same_name_as(&self, other: &Self) -> Error {
        let described = |group: &Self| {
            format!("the service `{}` with the listener `{}`", group.service, group.listener)
        };
        Error::new(
            ErrorKind::Config,
            format!(
                "the consumer group `{self}` of {} is already that of {}: they would share its events",
                described(self),
                described(other)
            ),
        )
        .hint("Rename the listener, or the service")
    }
}

impl fmt::Display for GroupSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.service, self.listener)
    }
}
