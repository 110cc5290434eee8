//! Reading the text of a configuration from a file or a web server.

use lightbus_core::{Error, ErrorKind, Result};

use super::{explain::READING, secrets::without_password};

/// The largest configuration that is accepted: 1 MiB.
const MAX_BYTES: u64 = 1024 * 1024;

/// A text and its format.
pub(super) struct Text {
    pub(super) text: String,
    pub(super) is_json: bool,
    /// The name for people, without a password.
    pub(super) name: String,
}

/// Reads a file, or fetches it from an `http://` or `https://` address.
pub(super) fn fetch(place: &str) -> Result<Text> {
    let is_json = |path: &str| path.to_ascii_lowercase().ends_with(".json");
    let name = without_password(place);
    let read = if place.starts_with("http://") || place.starts_with("https://") {
        get(place).map(|(text, said_json)| {
            let path = place.split(['?', '#']).next().unwrap_or_default();
            (text, said_json || is_json(path))
        })
    } else {
        read(place).map(|text| (text, is_json(place)))
    };
    match read {
        Ok((text, is_json)) => Ok(Text { text, is_json, name }),
        Err(error) => Err(error.during(READING).with("file", name)),
    }
}

fn too_large() -> Error {
    Error::new(ErrorKind::Config, format!("the file is larger than {MAX_BYTES} bytes"))
}

fn read(path: &str) -> Result<String> {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_BYTES) {
        return Err(too_large());
    }
    std::fs::read_to_string(path).map_err(|error| {
        Error::new(ErrorKind::Config, format!("cannot read the file: {error}"))
            .hint("Is LIGHTBUS_CONFIG right, and relative to the folder in which the program runs?")
    })
}

#[cfg(not(feature = "config-url"))]
fn get(_: &str) -> Result<(String, bool)> {
    Err(Error::new(
        ErrorKind::Config,
        "this program was built without support for fetching a configuration over HTTP",
    )
    .hint("Enable lightbus' cargo feature `config-url`, or download the file and name that"))
}

/// Fetches a text. Returns whether the server says that it is JSON.
#[cfg(feature = "config-url")]
fn get(url: &str) -> Result<(String, bool)> {
    /// As in Python.
    const LIMIT: std::time::Duration = std::time::Duration::from_secs(5);
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(LIMIT))
        .user_agent(concat!("lightbus/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    let wrong = |error: ureq::Error| match error {
        ureq::Error::BodyExceedsLimit(_) => too_large(),
        ureq::Error::Timeout(_) => {
            Error::new(ErrorKind::Config, format!("the server did not send it within {LIMIT:?}"))
        }
        ureq::Error::StatusCode(code) => {
            Error::new(ErrorKind::Config, format!("the server answered with status {code}"))
        }
        // Other errors may contain the address, and the address a password.
        error => Error::new(
            ErrorKind::Config,
            format!(
                "it cannot be fetched: {}",
                error.to_string().replace(url, &without_password(url))
            ),
        ),
    };
    let mut response = agent.get(url).call().map_err(wrong)?;
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    let is_json = kind.is_some_and(|kind| kind.contains("json"));
    let text =
        response.body_mut().with_config().limit(MAX_BYTES).read_to_string().map_err(wrong)?;
    Ok((text, is_json))
}
