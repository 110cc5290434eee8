//! From values to bytes and back: JSON, as on Python's wire, through erased-serde where the type
//! is not known when the program is compiled.

use std::cell::Cell;

use bytes::Bytes;
use serde::de::DeserializeOwned;

use crate::{Arguments, Error, ErrorKind, Result};

/// Arguments whose types are known only where they are written, as `args! { username: "admin" }`
/// makes them. Each is encoded when it is added.
#[derive(Clone, Debug)]
pub struct Args(Result<Arguments>);

impl Args {
    /// No arguments.
    #[must_use]
    pub fn new() -> Self {
        Self(Ok(Arguments::new()))
    }

    /// Adds an argument.
    #[must_use]
    pub fn with(mut self, name: &str, value: &dyn erased_serde::Serialize) -> Self {
        if let Ok(fields) = &mut self.0 {
            match encode(value) {
                Ok(bytes) => fields.push(name, bytes),
                Err(error) => self.0 = Err(error.with("argument", name)),
            }
        }
        self
    }

    /// The encoded arguments.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] with the argument's name, if a value has no JSON form.
    pub fn into_fields(self) -> Result<Arguments> {
        self.0
    }
}

impl Default for Args {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Arguments> for Args {
    fn from(fields: Arguments) -> Self {
        Self(Ok(fields))
    }
}

/// Encodes one value as JSON.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] if the value has no JSON form, such as a map whose keys are no strings.
pub fn encode<T: serde::Serialize + ?Sized>(value: &T) -> Result<Bytes> {
    // Taken, so that a value that encodes another one meanwhile finds none and makes its own.
    let mut out = SCRATCH.take();
    out.clear();
    let written = serde_json::to_writer(&mut out, value);
    let bytes = if out.len() > SCRATCH_LIMIT {
        Bytes::from(std::mem::take(&mut out))
    } else {
        Bytes::copy_from_slice(&out)
    };
    if out.capacity() <= SCRATCH_LIMIT {
        SCRATCH.set(out);
    }
    written.map(|()| bytes).map_err(|error| {
        Error::new(ErrorKind::Invalid, "the value cannot be written as JSON").because(error)
    })
}

thread_local! {
    /// What values are written into, so that each takes one allocation, of its size.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The most bytes that are kept, and copied.
const SCRATCH_LIMIT: usize = 64 * 1024;

/// Decodes one JSON value.
///
/// # Errors
///
/// [`ErrorKind::Malformed`] with the reason and the place in the text, if the bytes are not JSON
/// or not of this type. Nesting deeper than 128 levels is refused.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| malformed(&error))
}

/// Decodes the argument `name` of a message. One that was not sent counts as `null`, so that it
/// may be left out where its type is an `Option`.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] that names the argument, if it is missing or of another type.
pub fn decode_field<T: DeserializeOwned>(fields: &Arguments, name: &str) -> Result<T> {
    decode_field_or(fields, name, || {
        serde_json::from_slice(b"null").map_err(|_| {
            Error::new(ErrorKind::Invalid, format!("the argument `{name}` is missing"))
        })
    })
}

/// Decodes the argument `name` of a message, or takes the default if it was not sent.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] that names the argument, if it is of another type.
pub fn decode_field_or<T: DeserializeOwned>(
    fields: &Arguments,
    name: &str,
    default: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let Some(bytes) = fields.get(name) else {
        return default();
    };
    serde_json::from_slice(bytes).map_err(|error| {
        let message = match too_deep(&error) {
            true => format!("the argument `{name}` is {}", json_error(&error)),
            false => format!("the argument `{name}` is of another type: {error}"),
        };
        Error::new(ErrorKind::Invalid, message)
    })
}

/// Refuses arguments other than these.
///
/// # Errors
///
/// [`ErrorKind::Invalid`] that names the first argument that is too many, and those that there are.
pub fn refuse_others(fields: &Arguments, known: &[&str]) -> Result<()> {
    match fields.iter().find(|(name, _)| !known.contains(&&***name)) {
        None => Ok(()),
        Some((name, _)) => {
            Err(Error::new(ErrorKind::Invalid, format!("there is no argument `{name}`"))
                .with("arguments", known.join(", ")))
        }
    }
}

fn malformed(error: &serde_json::Error) -> Error {
    let message = match too_deep(error) {
        true => format!("the JSON is {}", json_error(error)),
        false => format!("not the JSON that was expected: {error}"),
    };
    Error::new(ErrorKind::Malformed, message)
}

/// Whether JSON was refused because it is nested more than 128 levels deep.
fn too_deep(error: &serde_json::Error) -> bool {
    // The library has no kind for it.
    error.is_syntax() && error.to_string().starts_with("recursion limit exceeded")
}

/// What is wrong with JSON, in words.
#[must_use]
pub fn json_error(error: &serde_json::Error) -> String {
    if too_deep(error) {
        let (line, column) = (error.line(), error.column());
        return format!(
            "nested more than 128 levels deep, which is refused (line {line}, column {column})"
        );
    }
    error.to_string()
}
