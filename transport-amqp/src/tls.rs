//! Certificates for encrypted connections.

use lightbus_core::{Error, Result};

use crate::{config::TlsConfig, endpoint::TlsFiles};

/// Reads the files that the options name.
pub(crate) fn files(path: &str, config: &TlsConfig) -> Result<TlsFiles> {
    let read = |option: &str, file: &str| {
        std::fs::read(file).map_err(|error| {
            Error::config(
                format_args!("{path}.tls.{option}"),
                format!("`{file}` cannot be read: {error}"),
            )
        })
    };
    let ca = match config.ca_file.as_deref() {
        Some(file) => Some(String::from_utf8(read("ca_file", file)?).map_err(|_| {
            Error::config(format_args!("{path}.tls.ca_file"), format!("`{file}` is not a PEM file"))
        })?),
        None => None,
    };
    let identity = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => Some((read("cert_file", cert)?, read("key_file", key)?)),
        (None, None) => None,
        _ => {
            return Err(Error::config(
                format_args!("{path}.tls"),
                "`cert_file` and `key_file` belong together",
            ));
        }
    };
    Ok(TlsFiles { ca, identity })
}
