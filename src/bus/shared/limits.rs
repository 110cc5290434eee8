//! Limits on the size of messages.

use lightbus_core::{Arguments, Error, ErrorKind, Result};

use super::ApiEntry;

impl ApiEntry {
    /// Refuses arguments that are too large in total.
    pub(crate) fn check_size(&self, fields: &Arguments) -> Result<()> {
        self.check_bytes(fields.size(), "the arguments have")
    }

    /// Refuses a result that is too large.
    pub(crate) fn check_result_size(&self, result: &[u8]) -> Result<()> {
        self.check_bytes(result.len(), "the result has")
    }

    fn check_bytes(&self, bytes: usize, what: &str) -> Result<()> {
        let most = self.config.max_message_size;
        if u64::try_from(bytes).is_ok_and(|bytes| bytes <= most) {
            return Ok(());
        }
        let message = format!("{what} {bytes} bytes, and {most} are allowed");
        Err(Error::new(ErrorKind::TooLarge, message)
            .with("api", &self.name)
            .hint("Send less, or send a reference; or raise the API's `max_message_size` in the configuration of both sides"))
    }
}
