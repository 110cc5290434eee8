//! Refusing a configuration that needs features which the program was built without.

#[cfg(not(feature = "yaml"))]
use lightbus_core::ErrorKind;
use lightbus_core::{Error, Result};

use super::Config;

/// Adds to an error which cargo feature would mend it, and what to do instead.
fn lacks(error: Error, feature: &str, instead: &str) -> Error {
    error.hint(format!("Switch on the cargo feature `{feature}` of lightbus, or {instead}"))
}

impl Config {
    /// Refuses settings that need a feature this program was built without.
    pub(crate) fn check_features(&self) -> Result<()> {
        if cfg!(feature = "validation") {
            return Ok(());
        }
        for (api, settings) in &self.apis {
            let asks = settings.validate.outgoing || settings.validate.incoming;
            for (key, asks) in
                [("validate", asks), ("strict_validation", settings.strict_validation)]
            {
                if asks {
                    let error = Error::config(
                        format!("apis.{api}.{key}"),
                        "this program was built without checks against schemas",
                    );
                    return Err(lacks(error, "validation", "set it to false"));
                }
            }
        }
        Ok(())
    }
}

/// The error for YAML in a program built without it.
#[cfg(not(feature = "yaml"))]
pub(super) fn no_yaml() -> Error {
    let error = Error::new(ErrorKind::Config, "this program was built without YAML");
    lacks(error, "yaml", "write the configuration as JSON, in a file whose name ends in `.json`")
}
