//! Certificates for encrypted connections.

use lightbus_core::{Error, Result};
use redis::{ClientTlsConfig, TlsCertificates};

use crate::config::TlsConfig;

/// Sets the process's default rustls provider, unless the program has set one. The client library panics
/// if there is none and other crates of the program have enabled a second provider.
pub(crate) fn set_default_provider() {
    use rustls::crypto::{CryptoProvider, ring};
    if CryptoProvider::get_default().is_none() {
        // Fails only if another thread has set one meanwhile.
        let _ = ring::default_provider().install_default();
    }
}

/// Reads the files that the options name.
pub(crate) fn certificates(path: &str, config: &TlsConfig) -> Result<TlsCertificates> {
    let read = |option: &str, file: &str| {
        std::fs::read(file).map_err(|error| {
            Error::config(
                format_args!("{path}.tls.{option}"),
                format!("`{file}` cannot be read: {error}"),
            )
        })
    };
    let client_tls = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read("cert_file", cert)?,
            client_key: read("key_file", key)?,
        }),
        (None, None) => None,
        _ => {
            return Err(Error::config(
                format_args!("{path}.tls"),
                "`cert_file` and `key_file` belong together",
            ));
        }
    };
    let root_cert = config.ca_file.as_deref().map(|file| read("ca_file", file)).transpose()?;
    Ok(TlsCertificates { client_tls, root_cert })
}
