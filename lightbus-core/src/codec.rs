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
    serde_json::from_slice(bytes).map_err(|error| malformed(bytes, &error))
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
        hinted(Error::new(ErrorKind::Invalid, message), bytes, &error)
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

fn malformed(bytes: &[u8], error: &serde_json::Error) -> Error {
    let message = match too_deep(error) {
        true => format!("the JSON is {}", json_error(error)),
        false => format!("not the JSON that was expected: {error}"),
    };
    hinted(Error::new(ErrorKind::Malformed, message), bytes, error)
}

/// Explains what Python does more often than others.
fn hinted(told: Error, bytes: &[u8], error: &serde_json::Error) -> Error {
    if !error.is_data() || !text_before(bytes, error).is_some_and(is_without_zone) {
        return told;
    }
    told.hint("The date and time has no time zone: Python's `datetime.utcnow()` writes none. Send `datetime.now(timezone.utc)`, or read it as a type without a zone, such as `chrono::NaiveDateTime`")
}

/// Returns the text that ends where reading JSON failed, or all of it where the place is not known.
fn text_before<'b>(bytes: &'b [u8], error: &serde_json::Error) -> Option<&'b str> {
    if error.line() == 0 {
        return std::str::from_utf8(bytes).ok().map(|text| text.trim().trim_matches('"'));
    }
    let line = bytes.split(|byte| *byte == b'\n').nth(error.line().checked_sub(1)?)?;
    let read = std::str::from_utf8(line.get(..error.column())?).ok()?;
    read.rsplit('"').find(|part| !part.is_empty())
}

/// Whether this is a date and time of ISO 8601 that does not say where: `2026-11-29T12:40:47.5`.
fn is_without_zone(text: &str) -> bool {
    const FORM: &[u8] = b"0000-00-00T00:00:00";
    let (time, fraction) = text.split_at_checked(FORM.len()).unwrap_or(("", text));
    let fits = |(byte, form): (u8, &u8)| match form {
        b'0' => byte.is_ascii_digit(),
        b'T' => byte == b'T' || byte == b' ',
        form => byte == *form,
    };
    let digits = fraction.strip_prefix('.').unwrap_or(fraction);
    time.len() == FORM.len()
        && time.bytes().zip(FORM).all(fits)
        && digits.bytes().all(|byte| byte.is_ascii_digit())
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

#[cfg(test)]
mod tests {
    use std::fmt;

    use serde::{Deserialize, Deserializer, de};

    use super::*;

    /// As `chrono::DateTime<Utc>` does.
    #[derive(Debug)]
    struct Zoned;

    impl<'de> Deserialize<'de> for Zoned {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Reading;
            impl de::Visitor<'_> for Reading {
                type Value = Zoned;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a time")
                }

                fn visit_str<E: de::Error>(self, text: &str) -> Result<Zoned, E> {
                    let zoned = text.ends_with('Z');
                    zoned.then_some(Zoned).ok_or_else(|| E::custom("premature end of input"))
                }
            }
            deserializer.deserialize_str(Reading)
        }
    }

    /// As a type does that converts a text it has read.
    #[derive(Debug)]
    struct Converted;

    impl<'de> Deserialize<'de> for Converted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = String::deserialize(deserializer)?;
            let zoned = text.ends_with('Z');
            zoned.then_some(Self).ok_or_else(|| de::Error::custom("premature end of input"))
        }
    }

    #[test]
    fn a_time_without_a_zone_is_told_from_other_mistakes() {
        for (json, explained) in [
            (r#""2026-11-29T12:40:47""#, true),
            (r#""2026-11-29 12:40:47.123456""#, true),
            (r#""2026-11-29T12:40:47+01""#, false),
            (r#""2026-11-29""#, false),
            (r#""""#, false),
            (r#""no time""#, false),
            ("12", false),
            ("\"é☃", false),
        ] {
            let fields = Arguments::from_iter([("at".into(), Bytes::from(json))]);
            let told = decode_field::<Zoned>(&fields, "at").unwrap_err().to_string();
            assert_eq!(told.contains("utcnow"), explained, "{json}: {told}");
            let told = decode::<Converted>(json.as_bytes()).unwrap_err().to_string();
            assert_eq!(told.contains("utcnow"), explained, "{json}: {told}");
            let told = decode::<Vec<Zoned>>(format!("[\"éZ\",\n\"éZ\", {json}]").as_bytes());
            assert_eq!(told.unwrap_err().to_string().contains("utcnow"), explained, "{json}");
        }
        assert!(decode::<Zoned>(br#""2026-11-29T12:40:47Z""#).is_ok());
    }
}
