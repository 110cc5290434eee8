//! Looking at a broker: where messages lie, who has them, and whether it is set up to keep promises.

use std::{fmt, time::Duration};

use async_trait::async_trait;

use crate::{Name, Result};

/// What a transport can tell people about its broker: for tools, never needed to carry a message.
///
/// Given by [`Transport::inspect`](super::Transport::inspect). Nothing here takes a message from
/// anybody, or changes anything.
#[async_trait]
pub trait Inspect: fmt::Debug + Send + Sync {
    /// Where this transport keeps the messages of an API, or of one procedure or event of it.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the broker does not answer.
    async fn locate(&self, api: &str, member: Option<&str>) -> Result<Vec<Location>>;

    /// Holds the broker's settings against what the bus promises. What may not be read is a finding.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](crate::ErrorKind::Unavailable) if the broker does not answer.
    async fn diagnose(&self) -> Result<Vec<Finding>>;
}

/// A queue, stream or key of the broker in which messages lie.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location {
    /// What lies there, for people: `calls waiting for a worker`.
    pub what: String,
    /// What the broker calls it.
    pub name: String,
    /// How many messages it has, where that is known.
    pub messages: Option<u64>,
    /// The consumer groups that read from it.
    pub groups: Vec<Group>,
    /// The broker's own commands to look at it.
    pub look: Vec<String>,
}

impl Location {
    /// A place about which no more is known.
    #[must_use]
    pub fn new(what: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            name: name.into(),
            messages: None,
            groups: Vec::new(),
            look: Vec::new(),
        }
    }
}

/// A consumer group of a [`Location`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Its name.
    pub name: Name,
    /// How many messages it has not taken, where the broker knows.
    pub waiting: Option<u64>,
    /// How many it has taken and not acknowledged.
    pub pending: u64,
    /// Who takes for it.
    pub consumers: Vec<Consumer>,
}

impl Group {
    /// A group without consumers.
    #[must_use]
    pub fn new(name: impl Into<Name>, waiting: Option<u64>, pending: u64) -> Self {
        Self { name: name.into(), waiting, pending, consumers: Vec::new() }
    }
}

/// A process that takes messages for a [`Group`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Consumer {
    /// Its name.
    pub name: Name,
    /// How many messages it holds.
    pub pending: u64,
    /// Since when it has not asked for any.
    pub idle: Duration,
    /// For how long it has held the oldest of them.
    pub oldest: Option<Duration>,
}

impl Consumer {
    /// A consumer.
    #[must_use]
    pub fn new(
        name: impl Into<Name>,
        pending: u64,
        idle: Duration,
        oldest: Option<Duration>,
    ) -> Self {
        Self { name: name.into(), pending, idle, oldest }
    }
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Good,
    /// Worth knowing; may be meant.
    Warning,
    /// A promise of the bus is not kept.
    Problem,
}

/// What an diagnosis found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What is so.
    pub what: String,
    /// What follows from it; empty if it is good.
    pub consequence: String,
    /// What to do; empty if it is good.
    pub cure: String,
}

impl Finding {
    /// Something that is as it should be.
    #[must_use]
    pub fn good(what: impl Into<String>) -> Self {
        let none = String::new;
        Self { severity: Severity::Good, what: what.into(), consequence: none(), cure: none() }
    }

    /// Something that may be meant.
    #[must_use]
    pub fn warning(
        what: impl Into<String>,
        consequence: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let (what, consequence, cure) = (what.into(), consequence.into(), cure.into());
        Self { severity: Severity::Warning, what, consequence, cure }
    }

    /// Something that breaks a promise.
    #[must_use]
    pub fn problem(
        what: impl Into<String>,
        consequence: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Problem, ..Self::warning(what, consequence, cure) }
    }
}
