//! The Redis server: connecting to it, and knowing its process.

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, Value, cmd};

use crate::Result;

/// A Redis server.
#[derive(Clone, Debug)]
pub struct Broker {
    client: Client,
    pid: Option<u32>,
    version: Vec<u32>,
}

impl Broker {
    /// Finds out about the server at this URL.
    pub async fn open(url: &str) -> Result<Self> {
        let info =
            url.into_connection_info()?.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let local = is_local(info.addr());
        let mut broker = Self { client: Client::open(info)?, pid: None, version: Vec::new() };
        let about: String =
            cmd("INFO").arg("server").query_async(&mut broker.connect().await?).await?;
        let field =
            |name: &str| about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        broker.version = field("redis_version")
            .unwrap_or_default()
            .split('.')
            .map_while(|part| part.parse().ok())
            .collect();
        let pid = field("process_id").and_then(|pid| pid.trim().parse().ok());
        broker.pid = pid.filter(|&pid| local && is_redis(pid));
        Ok(broker)
    }

    /// A connection to share.
    pub async fn connect(&self) -> Result<MultiplexedConnection> {
        Ok(self.client.get_multiplexed_async_connection().await?)
    }

    /// A connection for commands that block: it waits for their answers without limit, where the
    /// client's default is to give up after half a second.
    pub async fn connect_blocking(&self) -> Result<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        Ok(self.client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// The server's process, unless it runs elsewhere.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// Whether the server knows `BLMPOP`.
    pub fn pops_batches(&self) -> bool {
        self.version.as_slice() >= &[7]
    }

    /// Deletes keys.
    pub async fn delete(&self, keys: &[String]) -> Result<()> {
        let _: Value = cmd("UNLINK").arg(keys).query_async(&mut self.connect().await?).await?;
        Ok(())
    }
}

fn is_local(addr: &ConnectionAddr) -> bool {
    match addr {
        ConnectionAddr::Tcp(host, _) => matches!(host.as_str(), "localhost" | "127.0.0.1" | "::1"),
        ConnectionAddr::Unix(_) => true,
        _ => false,
    }
}

/// Whether this process is a Redis server: in a container it has an id of its own, which here may
/// be anyone's.
fn is_redis(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.contains("redis") || name.contains("valkey")
}
