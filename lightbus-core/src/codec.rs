//! From values to bytes and back: JSON, as on Python's wire, through erased-serde where the type
//! is not known when the program is compiled.

use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{Error, ErrorKind, Fields, Name, Result};

/// Arguments whose types are known only where they are written, as `args! { username: "admin" }` makes them.
#[derive(Clone, Default)]
pub struct Args<'a>(Vec<(&'a str, &'a dyn erased_serde::Serialize)>);

impl<'a> Args<'a> {
    /// No arguments.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an argument.
    #[must_use]
    pub fn with(mut self, name: &'a str, value: &'a dyn erased_serde::Serialize) -> Self {
        self.0.push((name, value));
        self
    }

    /// Encodes each argument, once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] with the argument's name, if a value has no JSON form.
    pub fn encode(&self) -> Result<Fields> {
        let mut fields = Fields::with_capacity(self.0.len());
        for (name, value) in &self.0 {
            fields.push(
                *name,
                encode(value).map_err(|error| error.with("argument", name))?,
            );
        }
        Ok(fields)
    }
}

impl fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Encodes one value as JSON.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] if the value has no JSON form, such as a map whose keys are no strings.
pub fn encode<T: serde::Serialize + ?Sized>(value: &T) -> Result<Bytes> {
    let mut out = Vec::with_capacity(32);
    serde_json::to_writer(&mut out, value).map_err(|error| {
        Error::new(ErrorKind::Invalid, "the value cannot be written as JSON").because(error)
    })?;
    Ok(out.into())
}

/// Decodes one JSON value.
///
/// # Errors
///
/// [`ErrorKind::Malformed`] with the reason and the place in the text, if the bytes are not JSON
/// or not of this type. Nesting deeper than 128 levels is refused.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| malformed(&error))
}

/// Decodes the argument `name` of a message. An argument that was not sent is decoded as `default`
/// says, or else as `null`, so that it may be left out where its type is an `Option`.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] that names the argument, if it is missing or of another type.
pub fn decode_field<T: DeserializeOwned>(fields: &Fields, name: &Name) -> Result<T> {
    match fields.get(name) {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                format!("the argument `{name}` is of another type: {error}"),
            )
        }),
        None => serde_json::from_slice(b"null").map_err(|_| {
            Error::new(
                ErrorKind::Invalid,
                format!("the argument `{name}` is missing"),
            )
        }),
    }
}

fn malformed(error: &serde_json::Error) -> Error {
    Error::new(
        ErrorKind::Malformed,
        format!("not the JSON that was expected: {error}"),
    )
}
