//! The headers of records.

use std::panic::{AssertUnwindSafe, catch_unwind};

use lightbus_core::Headers;
use rdkafka::message::{Header, Headers as _, OwnedHeaders};

/// Names a call, a result, or an event.
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
/// When an event was sent, by the sender's clock in microseconds: tells the order where Kafka's
/// milliseconds do not.
pub(crate) const SENT: &str = "lightbus-sent";
/// There, and 1, on the result of a call that failed.
pub(crate) const ERROR: &str = "lightbus-error";
/// How long a schema lives, in milliseconds from the time of its record on.
pub(crate) const TTL_MS: &str = "lightbus-ttl-ms";
/// Why an event was set aside.
pub(crate) const REASON: &str = "lightbus-dead-letter-reason";
/// How often it was tried.
pub(crate) const ATTEMPTS: &str = "lightbus-dead-letter-attempts";
/// The topic, partition and offset it had.
pub(crate) const ORIGIN: &str = "lightbus-dead-letter-origin";
/// There, and 1, on a record that tells which dead letters were removed.
pub(crate) const REMOVED: &str = "lightbus-dead-letter-removed";
/// The one group that an event is for, that was given back to it.
pub(crate) const ONLY_GROUP: &str = "lightbus-only-group";

const OWN: &str = "lightbus-";
/// More headers than these are left out: they are few by nature, and searched one by one.
const MOST: usize = 64;

/// Adds a header.
pub(crate) fn add(headers: OwnedHeaders, key: &str, value: &str) -> OwnedHeaders {
    headers.insert(Header { key, value: Some(value) })
}

/// Adds those that travel beside a message, but for this one.
pub(crate) fn add_all(mut headers: OwnedHeaders, of: &Headers, but: &str) -> OwnedHeaders {
    for (name, value) in of.iter() {
        // A name is a C string there.
        if &**name != but && !name.starts_with(OWN) && !name.contains('\0') {
            headers = add(headers, name, value);
        }
    }
    headers
}

/// The headers of a record, read once: each of its own by name, the others as those of the message.
pub(crate) struct Found<'a, const N: usize> {
    names: [&'static str; N],
    values: [Option<&'a str>; N],
    pub(crate) others: Headers,
}

impl<'a, const N: usize> Found<'a, N> {
    /// Reads the headers of a record. Those that are not UTF-8 are left out.
    pub(crate) fn read<M: rdkafka::Message>(message: &'a M, names: [&'static str; N]) -> Self {
        let mut found = Self { names, values: [None; N], others: Headers::new() };
        let Some(headers) = message.headers() else { return found };
        for index in 0..headers.count().min(MOST) {
            // The client panics at a name that is not UTF-8, and anybody can send one.
            let Ok(Some(header)) = catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) else {
                continue;
            };
            let Some(value) = header.value.and_then(|value| std::str::from_utf8(value).ok()) else {
                continue;
            };
            match found.names.iter().position(|name| *name == header.key) {
                Some(place) => found.values[place] = Some(value),
                None if header.key.starts_with(OWN) => {}
                None => found.others.set(header.key, value),
            }
        }
        found
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let place = self.names.iter().position(|known| *known == name)?;
        self.values[place]
    }

    /// A header without which the record cannot be read.
    pub(crate) fn need(&self, name: &str) -> Result<&'a str, String> {
        self.get(name)
            .filter(|text| !text.is_empty())
            .ok_or_else(|| format!("the header `{name}` is missing"))
    }
}
