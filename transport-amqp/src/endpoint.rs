//! The options of the connection, checked and turned into addresses. Nothing connects here.

use std::{fmt, time::Duration};

use lapin::{tcp::OwnedTLSConfig, uri::AMQPScheme, uri::AMQPUri};
use lightbus_core::{Error, Result};

use crate::config::ConnectionConfig;

/// How to reach RabbitMQ.
pub(crate) struct Endpoint {
    /// The address of each node.
    pub(crate) uris: Vec<AMQPUri>,
    pub(crate) tls: TlsFiles,
    pub(crate) connection_name: String,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    /// The addresses without secrets, for logs and errors.
    pub(crate) broker: String,
}

/// The contents of the certificates' files.
#[derive(Default)]
pub(crate) struct TlsFiles {
    pub(crate) ca: Option<String>,
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl TlsFiles {
    pub(crate) fn to_config(&self) -> OwnedTLSConfig {
        OwnedTLSConfig {
            identity: self.identity.as_ref().map(|(pem, key)| lapin::tcp::OwnedIdentity::PKCS8 {
                pem: pem.clone(),
                key: key.clone(),
            }),
            cert_chain: self.ca.clone(),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.broker).finish()
    }
}

impl Endpoint {
    /// Checks the options. `path` is their place in the configuration, for errors.
    pub(crate) fn new(path: &str, config: &ConnectionConfig) -> Result<Self> {
        let refused = |why: &str| {
            Error::config(
                format_args!("{path}.url"),
                format!("this is not an address of RabbitMQ: {why}"),
            )
            .hint("Use amqp://[user:password@]host[:port][/vhost] or amqps://…")
        };
        let text = config.url.reveal();
        if !(text.starts_with("amqp://") || text.starts_with("amqps://")) {
            return Err(refused("it must start with amqp:// or amqps://"));
        }
        check_query(text).map_err(|why| refused(&why))?;
        let mut uri: AMQPUri = text.parse().map_err(|why: String| refused(&why))?;
        if let Some(host) = ipv6_host(text) {
            uri.authority.host = host.to_owned();
        }
        // Most people mean the default vhost by an address that ends with a slash.
        if uri.vhost.is_empty() {
            uri.vhost = "/".into();
        }
        if uri.query.heartbeat.is_none() {
            let seconds = config.heartbeat.0.as_secs_f64().ceil();
            uri.query.heartbeat = Some(if seconds >= f64::from(u16::MAX) {
                u16::MAX
            } else {
                // Whole, not negative, and below the limit.
                seconds as u16
            });
        }
        let tls = match (&config.tls, &uri.scheme) {
            (None, _) => TlsFiles::default(),
            (Some(_), AMQPScheme::AMQP) => {
                return Err(Error::config(
                    format_args!("{path}.tls"),
                    "`tls` needs an encrypted connection",
                )
                .hint("Use amqps:// in `url`"));
            }
            (Some(tls), AMQPScheme::AMQPS) => crate::tls::files(path, tls)?,
        };
        if uri.scheme == AMQPScheme::AMQPS && cfg!(not(feature = "tls")) {
            return Err(Error::config(
                format_args!("{path}.url"),
                "this needs the cargo feature `tls` of lightbus-transport-amqp, which is not compiled in",
            )
            .hint("Enable the feature `amqp-tls` of lightbus"));
        }
        let connect_timeout =
            uri.query.connection_timeout.map_or(config.connect_timeout.0, Duration::from_millis);
        let mut uris = vec![uri.clone()];
        for (index, node) in config.nodes.iter().enumerate() {
            let (host, port) = host_and_port(node, uri.scheme.default_port()).ok_or_else(|| {
                Error::config(
                    format_args!("{path}.nodes[{index}]"),
                    format!("`{node}` is not host:port"),
                )
            })?;
            let mut other = uri.clone();
            other.authority.host = host;
            other.authority.port = port;
            if !uris.contains(&other) {
                uris.push(other);
            }
        }
        let places: Vec<_> = uris
            .iter()
            .map(|uri| format!("{}:{}", uri.authority.host, uri.authority.port))
            .collect();
        let vhost = if uri.vhost == "/" { String::new() } else { format!("/{}", uri.vhost) };
        Ok(Self {
            broker: format!("{}{vhost}", places.join(",")),
            uris,
            tls,
            connection_name: config.connection_name.clone(),
            connect_timeout,
            response_timeout: config.response_timeout.0,
        })
    }
}

/// Returns the host, if it is an IPv6 address in brackets, which the client library's parser ignores.
fn ipv6_host(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.strip_prefix('[')?.split_once(']').map(|(host, _)| host)
}

fn host_and_port(node: &str, usual: u16) -> Option<(String, u16)> {
    if let Some(rest) = node.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if port.is_empty() => usual,
            None => return None,
        };
        return Some((host.to_owned(), port));
    }
    match node.split_once(':') {
        Some((host, port)) if !host.is_empty() => Some((host.to_owned(), port.parse().ok()?)),
        None if !node.is_empty() => Some((node.to_owned(), usual)),
        _ => None,
    }
}

/// Refuses options in the address's query that would be ignored.
fn check_query(url: &str) -> std::result::Result<(), String> {
    const KNOWN: [&str; 5] =
        ["heartbeat", "connection_timeout", "frame_max", "channel_max", "auth_mechanism"];
    let Some((_, query)) = url.split_once('?') else { return Ok(()) };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let key = pair.split('=').next().unwrap_or_default();
        if !KNOWN.contains(&key) {
            return Err(format!(
                "it has an unknown option `{key}`; there are {}",
                KNOWN.join(", ")
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use lightbus_core::{ConfigSection, ErrorKind};

    use super::*;
    use crate::RpcConfig;

    fn endpoint(options: serde_json::Value) -> Result<Endpoint> {
        let config: RpcConfig = ConfigSection::new("here", options).parse()?;
        Endpoint::new("here", &config.connection())
    }

    #[test]
    fn an_address_may_have_much_or_little() {
        let all = endpoint(serde_json::json!({
            "url": "amqp://me:s%2Fecret@[::1]:1234/my%2Fhost?heartbeat=3",
            "nodes": ["other", "[fe80::1]:7", "third:99"],
        }))
        .expect("an endpoint");
        assert_eq!(all.broker, "::1:1234,other:5672,fe80::1:7,third:99/my/host");
        assert_eq!(all.uris[1].authority.userinfo.password, "s/ecret");
        assert_eq!(all.uris[0].query.heartbeat, Some(3));
        let little = endpoint(serde_json::json!({"url": "amqp://rabbit/"})).expect("an endpoint");
        assert_eq!(little.broker, "rabbit:5672");
        assert_eq!(little.uris[0].vhost, "/");
        assert_eq!(little.uris[0].query.heartbeat, Some(10));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_path() {
        for (options, at, what) in [
            (serde_json::json!({"url": "redis://x"}), "here.url", "amqp://"),
            (serde_json::json!({"url": "amqp://x?hartbeat=1"}), "here.url", "hartbeat"),
            (serde_json::json!({"nodes": ["a:b"]}), "here.nodes[0]", "host:port"),
            (serde_json::json!({"tls": {}}), "here.tls", "amqps"),
            (serde_json::json!({"heartbeet": 1}), "here", "heartbeet"),
        ] {
            let error = endpoint(options).expect_err("it is wrong");
            assert_eq!(error.kind(), ErrorKind::Config);
            let text = error.to_string();
            assert!(text.contains(at) && text.contains(what), "{text}");
        }
    }
}
