//! Finds the primary by asking sentinels.

use lightbus_core::{Error, Result};
use redis::{
    ConnectionAddr, ConnectionInfo, TlsMode,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};

use crate::{
    config::{SentinelConfig, TlsConfig},
    error::{Sent, from_redis},
};

/// A primary that sentinels monitor.
pub(crate) struct Watched {
    config: SentinelConfig,
    nodes: Vec<ConnectionAddr>,
    info: ConnectionInfo,
    #[cfg(feature = "tls")]
    certificates: Option<redis::TlsCertificates>,
}

impl Watched {
    pub(crate) fn new(
        path: &str,
        config: &SentinelConfig,
        tls: Option<&TlsConfig>,
        info: ConnectionInfo,
    ) -> Result<Self> {
        let path = format!("{path}.sentinel");
        let nodes = addresses(&format!("{path}.nodes"), &config.nodes)?;
        #[cfg(not(feature = "tls"))]
        if tls.is_some() {
            return Err(crate::endpoint::not_compiled_in(&path, "tls"));
        }
        Ok(Self {
            config: config.clone(),
            nodes,
            info,
            #[cfg(feature = "tls")]
            certificates: tls.map(|tls| crate::tls::certificates(&path, tls)).transpose()?,
        })
    }

    /// Returns a client of the current primary.
    pub(crate) async fn primary(&self) -> Result<redis::Client> {
        let explain =
            |error| from_redis(error, &format!("sentinels of {}", self.config.master), Sent::No);
        let settings = self.info.redis_settings();
        let master = self.config.master.clone();
        let mut builder =
            SentinelClientBuilder::new(self.nodes.clone(), master, SentinelServerType::Master)
                .map_err(explain)?
                .set_client_to_redis_protocol(settings.protocol())
                .set_client_to_redis_db(settings.db())
                .set_client_to_redis_tcp_settings(self.info.tcp_settings().clone())
                .set_client_to_sentinel_tcp_settings(self.info.tcp_settings().clone());
        if let Some(username) = settings.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if let Some(username) = &self.config.username {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = &self.config.password {
            builder = builder.set_client_to_sentinel_password(password.reveal());
        }
        if let ConnectionAddr::TcpTls { insecure, .. } = self.info.addr() {
            let mode = if *insecure { TlsMode::Insecure } else { TlsMode::Secure };
            builder = builder.set_client_to_redis_tls_mode(mode);
            #[cfg(feature = "tls")]
            if let Some(certificates) = &self.certificates {
                builder = builder.set_client_to_redis_certificates(certificates.clone());
            }
        }
        builder.build().map_err(explain)?.async_get_client().await.map_err(explain)
    }
}

/// Parses the addresses of nodes, each `host:port`.
fn addresses(path: &str, nodes: &[String]) -> Result<Vec<ConnectionAddr>> {
    if nodes.is_empty() {
        return Err(Error::config(path, "at least one node is needed"));
    }
    nodes
        .iter()
        .map(|node| {
            node.rsplit_once(':')
                .and_then(|(host, port)| {
                    let host = host.trim_start_matches('[').trim_end_matches(']');
                    Some(ConnectionAddr::Tcp(host.to_owned(), port.parse().ok()?))
                })
                .ok_or_else(|| Error::config(path, format!("`{node}` is not `host:port`")))
        })
        .collect()
}
