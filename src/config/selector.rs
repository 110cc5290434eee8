//! Choosing a transport: a mapping with one key, the transport's name.

use std::fmt;

use lightbus_core::ConfigSection;
use serde::{Deserialize, de::Error as _};

/// A transport's name and its options, as `redis: {url: …}`.
#[derive(Clone, PartialEq)]
pub struct Selector {
    name: String,
    options: serde_json::Value,
}

impl Selector {
    /// Chooses a transport with its default options.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self::with_options(name, serde_json::Value::Null)
    }

    /// Chooses a transport with options.
    #[must_use]
    pub fn with_options(name: impl Into<String>, options: serde_json::Value) -> Self {
        Self { name: name.into(), options }
    }

    /// Returns the transport's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns an option, if it is set.
    pub(crate) fn option(&self, key: &str) -> Option<&serde_json::Value> {
        self.options.get(key)
    }

    /// Returns the selector with these options only.
    pub(crate) fn retain(mut self, keep: impl Fn(&str) -> bool) -> Self {
        if let Some(options) = self.options.as_object_mut() {
            options.retain(|key, _| keep(key));
        }
        self
    }

    /// Returns the selector as a section of a configuration.
    pub(crate) fn to_value(&self) -> serde_json::Value {
        let mut entries = serde_json::Map::new();
        entries.insert(self.name.clone(), self.options.clone());
        entries.into()
    }

    pub(crate) fn section(&self, path: &str) -> ConfigSection {
        ConfigSection::new(format!("{path}.{}", self.name), self.options.clone())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Options may contain passwords.
        f.debug_struct("Selector").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let entries = serde_json::Map::<String, serde_json::Value>::deserialize(deserializer)?;
        let names: Vec<_> = entries.keys().cloned().collect();
        let mut entries = entries.into_iter();
        match (entries.next(), entries.next()) {
            (Some((name, options)), None) => Ok(Self { name, options }),
            (None, _) => {
                Err(D::Error::custom("names no transport: write for instance `redis: {}`"))
            }
            _ => Err(D::Error::custom(format!(
                "names several transports ({}): keep one",
                names.join(", ")
            ))),
        }
    }
}
