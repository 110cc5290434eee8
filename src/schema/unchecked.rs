//! Replaces `check` where the feature `validation` is off: any message of a known procedure or event is
//! valid.
//!
//! A configuration that asks for validation is refused before it gets here
//! ([`Config::check_features`](crate::config::Config::check_features)).

use bytes::Bytes;
use lightbus_core::{Arguments, Result};
use serde_json::Value;

/// The checks of one procedure or event: none.
#[derive(Debug, Default)]
pub(super) struct Checks {}

impl Checks {
    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as in `check`")]
    pub(super) fn parameters(&self, _: &Value, _: &Arguments) -> Result<()> {
        Ok(())
    }

    #[allow(clippy::unused_self, clippy::unnecessary_wraps, reason = "as in `check`")]
    pub(super) fn response(&self, _: &Value, _: &Bytes) -> Result<()> {
        Ok(())
    }
}
