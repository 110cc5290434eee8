//! The headers of records.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lightbus_core::Headers;
use rdkafka::message::{Header, Headers as _, OwnedHeaders};

/// The id of a call, a result, or an event.
pub(crate) const ID: &str = "lightbus-id";
/// The API.
pub(crate) const API: &str = "lightbus-api";
/// The procedure of a call.
pub(crate) const PROCEDURE: &str = "lightbus-procedure";
/// Where the result of a call goes.
pub(crate) const RETURN_PATH: &str = "lightbus-return-path";
/// The event.
pub(crate) const EVENT: &str = "lightbus-event";
/// The version of the API that fired an event.
pub(crate) const VERSION: &str = "lightbus-version";
/// When an event was sent, by the sender's clock in microseconds: orders events of one millisecond.
pub(crate) const SENT: &str = "lightbus-sent";
/// `1` on the result of a call that failed; absent otherwise.
pub(crate) const ERROR: &str = "lightbus-error";
/// The time to live of a schema, in milliseconds from the time of its record.
pub(crate) const TTL_MS: &str = "lightbus-ttl-ms";
/// Why an event was dead-lettered.
pub(crate) const REASON: &str = "lightbus-dead-letter-reason";
/// How often it was tried.
pub(crate) const ATTEMPTS: &str = "lightbus-dead-letter-attempts";
/// Its original topic, partition and offset.
pub(crate) const ORIGIN: &str = "lightbus-dead-letter-origin";
/// `1` on a record that lists dead letters that were removed; absent otherwise.
pub(crate) const REMOVED: &str = "lightbus-dead-letter-removed";
/// The only group that an event is for: it was requeued.
pub(crate) const ONLY_GROUP: &str = "lightbus-only-group";

const OWN: &str = "lightbus-";

/// Adds a header.
pub(crate) fn add(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// Adds the headers of a message, except this one.
pub(crate) fn add_all(mut headers: OwnedHeaders, of: &Headers, but: &str) -> OwnedHeaders {
    for (name, value) in of.iter() {
        // librdkafka takes the name as a C string.
        if &**name != but && !name.starts_with(OWN) && !name.contains('\0') {
            headers = add(headers, name, value);
        }
    }
    headers
}

/// The headers of a record: lightbus' own by name, the others as the headers of the message.
pub(crate) struct Found<'a, const N: usize> {
    names: [&'static str; N],
    values: [Option<&'a str>; N],
    pub(crate) others: Headers,
}

impl<'a, const N: usize> Found<'a, N> {
    /// Reads the headers of a record. Headers that are not UTF-8 are ignored.
    pub(crate) fn read<M: rdkafka::Message>(message: &'a M, names: [&'static str; N]) -> Self {
        let mut found = Self { names, values: [None; N], others: Headers::new() };
        let Some(headers) = message.headers() else { return found };
        for index in 0..headers.count().min(Headers::MAX_COUNT) {
            // The client panics at a name that is not UTF-8, and anybody can send one.
            let Ok(Some(header)) = catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) else {
                continue;
            };
            let Some(value) = header.value.and_then(|value| std::str::from_utf8(value).ok()) else {
                continue;
            };
            match found.names.iter().position(|name| *name == header.key) {
                Some(slot) => found.values[slot] = Some(value),
                None if header.key.starts_with(OWN) => {}
                None => found.others.set(header.key, value),
            }
        }
        found
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let slot = self.names.iter().position(|known| *known == name)?;
        self.values[slot]
    }

    /// Returns a header without which the record cannot be read.
    pub(crate) fn need(&self, name: &str) -> Result<&'a str, String> {
        self.get(name)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| format!("the header `{name}` is missing"))
    }
}
