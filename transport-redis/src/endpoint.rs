//! The options of the connection, checked and turned into an address. Nothing connects here.

use std::{fmt, time::Duration};

use lightbus_core::{Error, Result};
use redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, io::tcp::TcpSettings,
};

use crate::config::{ConnectionConfig, TlsConfig};

/// How long connecting may take, unless the options say otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take. The client library's default is 500 ms.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// After about this long the system notices a peer that has vanished.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How to reach Redis.
pub(crate) struct Endpoint {
    pub(crate) target: Target,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    /// The address without secrets, for logs and errors.
    pub(crate) broker: String,
}

/// The kind of installation.
pub(crate) enum Target {
    Single(redis::Client),
    #[cfg(feature = "sentinel")]
    Sentinel(crate::sentinel::Watched),
    #[cfg(feature = "cluster")]
    Cluster(crate::cluster::Nodes),
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.broker).finish()
    }
}

impl Endpoint {
    /// Checks the options. `path` is their place in the configuration, for errors.
    pub(crate) fn new(path: &str, config: &ConnectionConfig) -> Result<Self> {
        let mut url = Url::parse(path, config)?;
        let parameters = &config.parameters;
        if parameters.maxsize.is_some() || parameters.minsize.is_some() {
            tracing::debug!("`maxsize` and `minsize` have no effect: sends share one connection");
        }
        let connect_timeout = [parameters.timeout.map(|timeout| timeout.0), url.timeout]
            .into_iter()
            .flatten()
            .find(|timeout| !timeout.is_zero())
            .unwrap_or(CONNECT_TIMEOUT);
        let response_timeout =
            parameters.response_timeout.map_or(RESPONSE_TIMEOUT, |timeout| timeout.0);
        let mut settings = url.info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        settings = settings.set_lib_name("lightbus", env!("CARGO_PKG_VERSION"));
        if let (None, Some(username)) = (settings.username(), &parameters.username) {
            settings = settings.set_username(username);
        }
        if let (None, Some(password)) =
            (settings.password(), parameters.password.as_ref().or(url.password.as_ref()))
        {
            settings = settings.set_password(password.reveal());
        }
        if let (false, Some(db)) = (url.names_db, parameters.db.or(url.db)) {
            settings = settings.set_db(i64::from(db));
        }
        let keepalive = redis::io::tcp::socket2::TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 3);
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        #[cfg(target_os = "linux")]
        let tcp = tcp.set_user_timeout(KEEPALIVE * 2);
        url.info = url.info.set_redis_settings(settings).set_tcp_settings(tcp);
        let db = url.info.redis_settings().db();
        let (target, address) = target(path, config, url.info)?;
        Ok(Self { target, connect_timeout, response_timeout, broker: format!("{address}/{db}") })
    }
}

fn target(path: &str, config: &ConnectionConfig, info: ConnectionInfo) -> Result<(Target, String)> {
    match (&config.cluster, &config.sentinel) {
        (Some(_), Some(_)) => {
            Err(Error::config(path, "`cluster` and `sentinel` exclude each other"))
        }
        #[cfg(feature = "cluster")]
        (Some(cluster), None) => {
            let nodes = crate::cluster::Nodes::new(path, cluster, config.tls.as_ref(), info)?;
            Ok((Target::Cluster(nodes), format!("cluster {}", cluster.nodes.join(","))))
        }
        #[cfg(not(feature = "cluster"))]
        (Some(_), None) => Err(not_compiled_in(path, "cluster")),
        #[cfg(feature = "sentinel")]
        (None, Some(sentinel)) => {
            let watched = crate::sentinel::Watched::new(path, sentinel, config.tls.as_ref(), info)?;
            Ok((Target::Sentinel(watched), format!("{} by sentinel", sentinel.master)))
        }
        #[cfg(not(feature = "sentinel"))]
        (None, Some(_)) => Err(not_compiled_in(path, "sentinel")),
        (None, None) => {
            let address = info.addr().to_string();
            Ok((Target::Single(single(path, config.tls.as_ref(), info)?), address))
        }
    }
}

/// Returns a client of one server.
pub(crate) fn single(
    path: &str,
    tls: Option<&TlsConfig>,
    info: ConnectionInfo,
) -> Result<redis::Client> {
    let encrypted = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    let client = match (tls, encrypted) {
        (Some(_), false) => {
            return Err(Error::config(path, "`tls` needs an encrypted connection")
                .hint("Use rediss:// in `url`"));
        }
        #[cfg(feature = "tls")]
        (Some(tls), true) => {
            redis::Client::build_with_tls(info, crate::tls::certificates(path, tls)?)
        }
        #[cfg(not(feature = "tls"))]
        (_, true) => return Err(not_compiled_in(path, "tls")),
        _ => redis::Client::open(info),
    };
    client.map_err(|error| Error::config(path, error.to_string()))
}

/// The error of an option that needs a cargo feature.
#[allow(dead_code, reason = "not needed with all features")]
pub(crate) fn not_compiled_in(path: &str, feature: &'static str) -> Error {
    Error::config(
        path,
        format!(
            "this needs the cargo feature `{feature}` of lightbus-transport-redis, which is not compiled in"
        ),
    )
    .hint(format!("Enable the feature `redis-{feature}` of lightbus"))
}

/// An address with its query.
struct Url {
    info: ConnectionInfo,
    names_db: bool,
    db: Option<u32>,
    password: Option<crate::Secret>,
    timeout: Option<Duration>,
}

impl Url {
    fn parse(path: &str, config: &ConnectionConfig) -> Result<Self> {
        let refused = |why: &str| {
            Error::config(
                format_args!("{path}.url"),
                format!("this is not an address of Redis: {why}"),
            )
            .hint("Use redis://[user:password@]host[:port][/db], rediss://… or unix:///path")
        };
        let text = config.url.reveal();
        let url = redis::parse_redis_url(text)
            .ok_or_else(|| refused("it must start with redis://, rediss:// or unix://"))?;
        let local = url.scheme().ends_with("unix");
        let (mut db, mut password, mut timeout, mut ssl) =
            (None, None, None, config.parameters.ssl);
        for (key, value) in url.query_pairs() {
            match &*key {
                "db" => {
                    db = Some(value.parse().map_err(|_| refused("`db` must be a number"))?);
                }
                "password" | "pass" => password = Some(crate::Secret::new(value)),
                "ssl" => ssl = Some(matches!(&*value, "true" | "1")),
                "timeout" => {
                    timeout = value
                        .parse()
                        .ok()
                        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                }
                "encoding" | "protocol" | "user" => {}
                other => return Err(refused(&format!("it has an unknown option `{other}`"))),
            }
        }
        let names_db = if local { db.is_some() } else { !url.path().trim_matches('/').is_empty() };
        let encrypt = ssl == Some(true) && url.scheme() == "redis" && !local;
        let encrypted = encrypt || matches!(url.scheme(), "rediss" | "valkeys");
        if encrypted && cfg!(not(feature = "tls")) {
            return Err(not_compiled_in(&format!("{path}.url"), "tls"));
        }
        #[cfg(feature = "tls")]
        if encrypted {
            crate::tls::set_default_provider();
        }
        let info = if encrypt {
            text.replacen("redis://", "rediss://", 1).into_connection_info()
        } else {
            url.into_connection_info()
        };
        let info = info.map_err(|error| refused(&error.to_string()))?;
        Ok(Self { info, names_db, db, password, timeout })
    }
}
